package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/log"
	_ "go.temporal.io/server/common/persistence/sql/sqlplugin/postgresql" // registers the plugin
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	sqliteschema "go.temporal.io/server/schema/sqlite"
	sqltool "go.temporal.io/server/tools/sql"
)

const (
	clusterName    = "active"
	postgresPlugin = "postgres12_pgx"
)

// storage is where the server keeps its state: two databases on PostgreSQL, one on SQLite.
type storage struct {
	main       *config.SQL
	visibility *config.SQL
	shards     int32
}

// prepareStorage makes sure that the schema, the namespaces and their search attributes exist.
func prepareStorage(o *options) (*storage, error) {
	prepare := prepareSQLite
	if o.postgres != "" {
		prepare = preparePostgres
	}
	storage, err := prepare(o)
	if err != nil {
		return nil, err
	}
	return storage, createNamespaces(o, storage)
}

func prepareSQLite(o *options) (*storage, error) {
	attributes := map[string]string{"mode": "memory", "cache": "shared"}
	name := fmt.Sprintf("temporal-%d", os.Getpid())
	if o.dbFilename != "" {
		attributes = map[string]string{"mode": "rwc", "journal_mode": "WAL", "synchronous": "NORMAL"}
		name = o.dbFilename
		if err := createSQLiteFile(name); err != nil {
			return nil, err
		}
	}
	for _, pragma := range o.sqlitePragmas {
		key, value, found := strings.Cut(pragma, "=")
		if !found {
			return nil, fmt.Errorf("--sqlite-pragma %q is not KEY=VALUE", pragma)
		}
		attributes[key] = value
	}
	sql := &config.SQL{PluginName: sqliteplugin.PluginName, ConnectAttributes: attributes, DatabaseName: name}
	return &storage{main: sql, visibility: sql, shards: 1}, nil
}

// createSQLiteFile makes the file with its schema when it does not exist. It is made under another name first: a
// start that is killed halfway must not leave a file that looks complete.
func createSQLiteFile(name string) error {
	if _, err := os.Stat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	// Logs of a file that somebody deleted would be replayed into the new one.
	unfinished := name + ".new"
	for _, leftover := range []string{unfinished, unfinished + "-journal", name + "-wal", name + "-shm"} {
		if err := os.Remove(leftover); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	err := sqliteschema.SetupSchema(&config.SQL{
		PluginName:        sqliteplugin.PluginName,
		ConnectAttributes: map[string]string{"mode": "rwc"},
		DatabaseName:      unfinished,
	})
	if err != nil {
		return err
	}
	return os.Rename(unfinished, name)
}

func preparePostgres(o *options) (*storage, error) {
	main, err := preparePostgresDatabase(o, o.database, "temporal")
	if err != nil {
		return nil, err
	}
	visibility, err := preparePostgresDatabase(o, o.database+"_visibility", "visibility")
	if err != nil {
		return nil, err
	}
	return &storage{main: main, visibility: visibility, shards: int32(o.shards)}, nil
}

// preparePostgresDatabase creates the database when there is none and brings its schema up to this server's version.
func preparePostgresDatabase(o *options, database, schema string) (*config.SQL, error) {
	if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(database) {
		return nil, fmt.Errorf("--database %q: letters, digits, _ and - only", database)
	}
	at := strings.LastIndex(o.postgres, "@")
	if at < 0 || strings.Contains(o.postgres[:at], ":") {
		return nil, fmt.Errorf("--postgres is not user@host:port (the password comes from PGPASSWORD)")
	}
	sql := config.SQL{
		PluginName:      postgresPlugin,
		ConnectAddr:     o.postgres[at+1:],
		User:            url.PathEscape(o.postgres[:at]),
		Password:        os.Getenv("PGPASSWORD"),
		DatabaseName:    database,
		MaxConns:        o.connections,
		MaxIdleConns:    o.connections,
		MaxConnLifetime: time.Hour,
	}
	if !hasSchema(sql) {
		if err := createPostgresDatabase(sql, schema); err != nil {
			return nil, fmt.Errorf("database %s: %w", database, err)
		}
	}
	return &sql, updateSchema(sql, schema)
}

// createPostgresDatabase makes the database with its schema under another name first, as a file of SQLite: not every
// step of the schema may be run twice, so a start that is killed halfway must not leave one that looks begun.
func createPostgresDatabase(sql config.SQL, schema string) error {
	unfinished, server := sql, sql
	unfinished.DatabaseName += "_new"
	server.DatabaseName = "" // whichever there is by default
	err := execute(server,
		fmt.Sprintf(`DROP DATABASE IF EXISTS "%s" WITH (FORCE)`, unfinished.DatabaseName),
		fmt.Sprintf(`CREATE DATABASE "%s"`, unfinished.DatabaseName))
	if err != nil {
		return err
	}
	if err := sqlTool(unfinished, "setup-schema", "-v", "0.0"); err != nil {
		return err
	}
	if err := updateSchema(unfinished, schema); err != nil {
		return err
	}
	if err := execute(unfinished, fmt.Sprintf(`UPDATE schema_version SET db_name = '%s'`, sql.DatabaseName)); err != nil {
		return err
	}
	return execute(server, fmt.Sprintf(`ALTER DATABASE "%s" RENAME TO "%s"`, unfinished.DatabaseName, sql.DatabaseName))
}

func updateSchema(sql config.SQL, schema string) error {
	return sqlTool(sql, "update-schema", "--schema-name", "postgresql/v12/"+schema)
}

// sqlTool runs Temporal's own tool, which carries the schemas. What fails in it ends the process, with a log line.
func sqlTool(sql config.SQL, args ...string) error {
	port := sql.ConnectAddr[strings.LastIndex(sql.ConnectAddr, ":")+1:]
	return sqltool.RunTool(append([]string{"temporal-sql-tool", "--plugin", sql.PluginName,
		"--ep", strings.TrimSuffix(sql.ConnectAddr, ":"+port), "-p", port,
		"-u", sql.User, "--pw", sql.Password, "--db", sql.DatabaseName}, args...))
}

func execute(sql config.SQL, statements ...string) error {
	connection, err := sqltool.NewConnection(&sql, log.NewNoopLogger())
	if err != nil {
		return err
	}
	defer connection.Close()
	for _, statement := range statements {
		if err := connection.Exec(statement); err != nil {
			return err
		}
	}
	return nil
}

// hasSchema asks the database itself: connections are lazy, so opening one proves nothing.
func hasSchema(sql config.SQL) bool {
	connection, err := sqltool.NewConnection(&sql, log.NewNoopLogger())
	if err != nil {
		return false
	}
	defer connection.Close()
	_, err = connection.ReadSchemaVersion()
	return err == nil
}

// createNamespaces creates those that are missing, also in a database that exists already. Search attributes are
// given to new namespaces only; for an old one they are added through the operator API.
func createNamespaces(o *options, storage *storage) error {
	attributes := map[string]enums.IndexedValueType{}
	for _, attribute := range o.searchAttributes {
		name, kind, _ := strings.Cut(attribute, "=")
		value, known := enums.IndexedValueType_shorthandValue[kind]
		if !known {
			return fmt.Errorf("--search-attribute %q is not NAME=Type with a known type", attribute)
		}
		attributes[name] = enums.IndexedValueType(value)
	}
	configs := make([]*sqliteschema.NamespaceConfig, 0, len(o.namespaces))
	for _, namespace := range o.namespaces {
		config, err := sqliteschema.NewNamespaceConfig(clusterName, namespace, false, attributes)
		if err != nil {
			return err
		}
		configs = append(configs, config)
	}
	return sqliteschema.CreateNamespaces(storage.main, configs...) // the statements are the same on PostgreSQL
}
