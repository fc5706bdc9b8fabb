package main

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
)

// options are the parsed flags, with every port that must be known filled in.
type options struct {
	ip          string
	port        int
	httpPort    int
	metricsPort int
	headless    bool
	uiIP        string
	uiPort      int

	dbFilename    string // empty: in memory
	sqlitePragmas list
	postgres      string // user@host:port, the password is in PGPASSWORD; empty: SQLite
	database      string
	shards        int
	connections   int

	namespaces          list
	searchAttributes    list
	dynamicConfigValues list
	logLevel            string
	logFormat           string
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func parseOptions(args []string) (*options, error) {
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") { // "server start-dev"
		args = args[1:]
	}
	o := &options{namespaces: list{"default"}}
	flags := flag.NewFlagSet("temporal", flag.ContinueOnError)
	flags.SetOutput(io.Discard)

	flags.StringVar(&o.ip, "ip", "127.0.0.1", "address the services listen on")
	flags.IntVar(&o.port, "port", 7233, "port of the frontend (gRPC)")
	flags.IntVar(&o.httpPort, "http-port", 0, "port of the HTTP API; a free one when not given")
	flags.IntVar(&o.metricsPort, "metrics-port", 0, "port of the Prometheus metrics; none when not given")
	flags.BoolVar(&o.headless, "headless", false, "no web UI")
	flags.StringVar(&o.uiIP, "ui-ip", "", "address the web UI listens on; the one of --ip when not given")
	flags.IntVar(&o.uiPort, "ui-port", 0, "port of the web UI; --port + 1000 when not given")

	flags.StringVar(&o.dbFilename, "db-filename", "", "SQLite file; in memory when not given")
	flags.StringVar(&o.dbFilename, "f", "", "short for --db-filename")
	flags.Var(&o.sqlitePragmas, "sqlite-pragma", "KEY=VALUE, repeatable; a file has journal_mode=WAL by default")
	flags.StringVar(&o.postgres, "postgres", "", "user@host:port, instead of SQLite; the password comes from PGPASSWORD")
	flags.StringVar(&o.database, "database", "temporal", "PostgreSQL database; the second one is called so with _visibility")
	flags.IntVar(&o.shards, "shards", 4, "history shards, fixed at the first start (PostgreSQL only)")
	flags.IntVar(&o.connections, "connections", 20, "PostgreSQL connections per database")

	flags.Var(&o.namespaces, "namespace", "namespace to create, repeatable; `default` always exists")
	flags.Var(&o.namespaces, "n", "short for --namespace")
	flags.Var(&o.searchAttributes, "search-attribute", "NAME=Type, repeatable; in every namespace that is created")
	flags.Var(&o.dynamicConfigValues, "dynamic-config-value", "KEY=JSON, repeatable")
	flags.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn, error or never")
	flags.StringVar(&o.logFormat, "log-format", "json", "json or text")

	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			flags.SetOutput(os.Stdout)
			flags.PrintDefaults()
			os.Exit(0)
		}
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.postgres != "" && (o.dbFilename != "" || len(o.sqlitePragmas) > 0) {
		return nil, fmt.Errorf("--postgres and the SQLite flags exclude each other")
	}
	return o, o.complete()
}

// complete fills in what follows from other flags and maps the words of `temporal server start-dev` to the server's.
func (o *options) complete() error {
	slices.Sort(o.namespaces)
	o.namespaces = slices.Compact(o.namespaces)
	if o.uiIP == "" {
		o.uiIP = o.ip
	}
	if o.uiPort == 0 {
		o.uiPort = o.port + 1000
	}
	if o.httpPort == 0 {
		port, err := freePort(o.ip)
		if err != nil {
			return err
		}
		o.httpPort = port
	}
	o.logLevel = strings.ToLower(o.logLevel)
	if o.logLevel == "never" {
		o.logLevel = "fatal"
	}
	switch o.logFormat {
	case "text", "pretty":
		o.logFormat = "console"
	default:
		o.logFormat = "json"
	}
	return nil
}

func (o *options) frontend() string { return address(o.ip, o.port) }

// freePort finds a port nobody listens on, below those the system gives to outgoing connections: one of these could
// take it between this look and the listen of its user.
func freePort(ip string) (int, error) {
	const first, last, tries = 20_000, 32_000, 100
	var err error
	for range tries {
		var listener net.Listener
		if listener, err = net.Listen("tcp", address(ip, first+rand.IntN(last-first))); err == nil {
			defer listener.Close()
			return listener.Addr().(*net.TCPAddr).Port, nil
		}
	}
	return 0, err
}
