package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	"go.temporal.io/server/common/primitives"
)

// newConfig describes a cluster of one host: every service in this process, found by fixed addresses.
func newConfig(o *options, storage *storage) (*config.Config, map[primitives.ServiceName]static.Hosts, error) {
	c := &config.Config{}
	c.Global.Membership.MaxJoinDuration = 30 * time.Second
	c.Global.Membership.BroadcastAddress = o.ip
	if o.metricsPort > 0 {
		c.Global.Metrics = &metrics.Config{Prometheus: &metrics.PrometheusConfig{
			ListenAddress: address(o.ip, o.metricsPort),
			HandlerPath:   "/metrics",
		}}
	}
	c.Persistence = config.Persistence{
		NumHistoryShards: storage.shards,
		DefaultStore:     "main",
		VisibilityStore:  "visibility",
		DataStores: map[string]config.DataStore{
			"main":       {SQL: storage.main},
			"visibility": {SQL: storage.visibility},
		},
	}
	c.ClusterMetadata = clusterMetadata(o)
	c.DCRedirectionPolicy.Policy = "noop"
	c.Archival.History.State = "disabled"
	c.Archival.Visibility.State = "disabled"
	c.NamespaceDefaults.Archival.History.State = "disabled"
	c.NamespaceDefaults.Archival.Visibility.State = "disabled"
	c.PublicClient.HostPort = o.frontend()

	hosts, err := addServices(c, o)
	return c, hosts, err
}

func clusterMetadata(o *options) *cluster.Config {
	// Stable over restarts, different per database: caches elsewhere may be keyed by it.
	id := uuid.NewSHA1(uuid.Nil, []byte(strings.Join([]string{o.postgres, o.database, o.dbFilename}, "\n")))
	return &cluster.Config{
		FailoverVersionIncrement: 10,
		MasterClusterName:        clusterName,
		CurrentClusterName:       clusterName,
		ClusterInformation: map[string]cluster.ClusterInformation{clusterName: {
			Enabled:                true,
			InitialFailoverVersion: 1,
			RPCAddress:             o.frontend(),
			HTTPAddress:            address(o.ip, o.httpPort),
			ClusterID:              id.String(),
		}},
	}
}

// addServices gives the frontend the ports asked for and the others free ones.
func addServices(c *config.Config, o *options) (map[primitives.ServiceName]static.Hosts, error) {
	c.Services = map[string]config.Service{}
	hosts := map[primitives.ServiceName]static.Hosts{}
	services := []primitives.ServiceName{
		primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService,
	}
	for _, service := range services {
		rpc := config.RPC{GRPCPort: o.port, BindOnIP: o.ip, HTTPPort: o.httpPort}
		if service != primitives.FrontendService {
			port, err := freePort(o.ip)
			if err != nil {
				return nil, err
			}
			rpc = config.RPC{GRPCPort: port, BindOnIP: o.ip}
		}
		c.Services[string(service)] = config.Service{RPC: rpc}
		hosts[service] = static.SingleLocalHost(address(reachable(o.ip), rpc.GRPCPort))
	}
	return hosts, nil
}

// reachable is where a service that listens on ip is called from inside this process.
func reachable(ip string) string {
	if ip == "0.0.0.0" {
		return "127.0.0.1"
	}
	return ip
}

// dynamicValues are the settings of a single node, over which the given KEY=JSON are laid.
func dynamicValues(given []string) (dynamicconfig.StaticClient, error) {
	values := dynamicconfig.StaticClient{}
	set := func(key string, value any) { values[dynamicconfig.MakeKey(key)] = value }
	set("frontend.namespaceRPS.visibility", 100)
	set("frontend.persistenceMaxQPS", 10_000)
	set("history.persistenceMaxQPS", 45_000)
	set("history.hostLevelCacheMaxSize", 8096)
	// A search attribute or namespace made a moment ago is used at once, by tests above all.
	set("system.forceSearchAttributesCacheRefreshOnRead", true)
	for _, pair := range given {
		key, raw, _ := strings.Cut(pair, "=")
		var value any
		if err := json.Unmarshal([]byte(raw), &value); err != nil {
			return nil, fmt.Errorf("--dynamic-config-value %q is not KEY=JSON: %w", pair, err)
		}
		if number, ok := value.(float64); ok && number == float64(int(number)) {
			value = int(number) // JSON has one kind of number, the settings have two
		}
		set(key, value)
	}
	return values, nil
}
