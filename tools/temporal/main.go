// A whole Temporal server in one process: frontend, history, matching, worker and the web UI, on SQLite (a file or
// memory) or PostgreSQL. It understands the flags of `temporal server start-dev`, so whatever starts Temporal's own
// development server (the SDK's test environment, our embedded engine) can start this one instead.
//
// options.go parses the flags, storage.go prepares the database, config.go turns both into the server's
// configuration; this file joins them and runs the result until it is told to stop.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/temporal"
)

// A server that was told to stop gives its services this long; whatever is in flight then is in the database and
// goes on at the next start, as after a crash.
const stopBound = 5 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "temporal:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// Registered first: a signal that arrives during the start ends the process as well.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)

	options, err := parseOptions(args)
	if err != nil {
		return err
	}
	type started struct {
		server temporal.Server
		err    error
	}
	starting := make(chan started, 1)
	go func() {
		server, err := start(options)
		starting <- started{server, err}
	}()
	var server temporal.Server
	select {
	case <-stop:
		return nil
	case result := <-starting:
		if result.err != nil {
			return result.err
		}
		server = result.server
	}

	fmt.Printf("Temporal server: %s\n", options.frontend())
	failed := make(chan error, 1)
	if !options.headless {
		fmt.Printf("Temporal UI:     http://%s\n", address(options.uiIP, options.uiPort))
		go func() { failed <- newUI(options).Start() }()
	}
	select {
	case <-stop:
		return stopWithin(server, stopBound)
	case err := <-failed:
		return fmt.Errorf("web UI: %w", err)
	}
}

// start returns once every service of the server runs.
func start(options *options) (temporal.Server, error) {
	if err := options.checkPorts(); err != nil {
		return nil, err
	}
	storage, err := prepareStorage(options)
	if err != nil {
		return nil, err
	}
	server, err := newServer(options, storage)
	if err != nil {
		return nil, err
	}
	return server, server.Start()
}

func newServer(options *options, storage *storage) (temporal.Server, error) {
	configuration, hosts, err := newConfig(options, storage)
	if err != nil {
		return nil, err
	}
	values, err := dynamicValues(options.dynamicConfigValues)
	if err != nil {
		return nil, err
	}
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Level: options.logLevel, Format: options.logFormat}))
	authorizer, err := authorization.GetAuthorizerFromConfig(&configuration.Global.Authorization)
	if err != nil {
		return nil, err
	}
	claimMapper, err := authorization.GetClaimMapperFromConfig(&configuration.Global.Authorization, logger)
	if err != nil {
		return nil, err
	}
	return temporal.NewServer(
		temporal.WithConfig(configuration),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithDynamicConfigClient(values),
		temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claimMapper }),
	)
}

func newUI(options *options) *uiserver.Server {
	return uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host:                options.uiIP,
		Port:                options.uiPort,
		TemporalGRPCAddress: options.frontend(),
		EnableUI:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // plain HTTP on one machine
		HideLogs:            true,
	}))
}

func stopWithin(server temporal.Server, bound time.Duration) error {
	stopped := make(chan error, 1)
	go func() { stopped <- server.Stop() }()
	select {
	case err := <-stopped:
		return err
	case <-time.After(bound):
		return nil
	}
}

// checkPorts says which flag to change when a port is taken; the server itself would only log it.
func (o *options) checkPorts() error {
	type wanted struct {
		flag string
		ip   string
		port int
	}
	ports := []wanted{{"--port", o.ip, o.port}, {"--http-port", o.ip, o.httpPort}, {"--metrics-port", o.ip, o.metricsPort}}
	if !o.headless {
		ports = append(ports, wanted{"--ui-port", o.uiIP, o.uiPort})
	}
	for _, want := range ports {
		if want.port == 0 {
			continue
		}
		listener, err := net.Listen("tcp", address(want.ip, want.port))
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("port %d is in use; choose another with %s", want.port, want.flag)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", want.flag, err)
		}
		listener.Close()
	}
	return nil
}

func address(ip string, port int) string {
	return net.JoinHostPort(strings.Trim(ip, "[]"), fmt.Sprint(port))
}
