package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"lockstep/nbd"
)

// scrapesAtOnce bounds how many scrapes are answered at the same time; more get 503.
const scrapesAtOnce = 4

// monitor tells monitoring how the server is, over HTTP:
//
//	GET /metrics   what package nbd, volume and wal count, for Prometheus
//	GET /healthz   200 as long as the process answers
//	GET /readyz    200 when every volume is served and none has failed, else 503; a Readiness in JSON
//
// Nothing of it waits for a disk or a client, so that it answers when it matters.
type monitor struct {
	host     *host
	log      zerolog.Logger
	registry *prometheus.Registry
	// started: the volumes have been opened, or failed to.
	started atomic.Bool
	// requests are those being answered; the server's own Close does not wait for them.
	requests sync.WaitGroup
}

func newMonitor(h *host, server *nbd.Server, log zerolog.Logger) *monitor {
	m := &monitor{host: h, log: log, registry: prometheus.NewRegistry()}
	m.registry.MustRegister( // panics where two metrics have one name
		newCollector(h, server, m.readiness),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// beside answers monitoring itself, and leaves all other requests to otherwise.
func (m *monitor) beside(otherwise http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", otherwise)
	mux.Handle("GET /metrics", m.counted(promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: scrapeLog{m.log}, MaxRequestsInFlight: scrapesAtOnce,
	})))
	mux.Handle("GET /healthz", m.counted(http.HandlerFunc(m.health)))
	mux.Handle("GET /readyz", m.counted(http.HandlerFunc(m.ready)))
	return mux
}

// counted lets close wait for the requests that are being answered.
func (m *monitor) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.requests.Add(1)
		defer m.requests.Done()
		h.ServeHTTP(w, r)
	})
}

func (m *monitor) health(w http.ResponseWriter, _ *http.Request) {
	if _, err := fmt.Fprintln(w, "ok"); err != nil {
		m.log.Debug().Err(err).Msg("monitoring left before the answer")
	}
}

func (m *monitor) ready(w http.ResponseWriter, _ *http.Request) {
	r := m.readiness()
	w.Header().Set("Content-Type", "application/json")
	if !r.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(w).Encode(r); err != nil {
		m.log.Debug().Err(err).Msg("monitoring left before the answer")
	}
}

// scrapeLog takes what the library has to say about scrapes that fail.
type scrapeLog struct{ zerolog.Logger }

// Println is promhttp.Logger's.
func (l scrapeLog) Println(v ...any) {
	l.Warn().Str("reason", fmt.Sprint(v...)).Msg("scrape failed")
}

// server is the one for an address of its own, where nothing but monitoring is answered.
func (m *monitor) server() *http.Server {
	return &http.Server{
		Handler:           m.beside(http.NotFoundHandler()),
		ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
}

// listenMetrics takes the address for monitoring, where one is configured.
func (n *node) listenMetrics(ctx context.Context) error {
	if n.cfg.Metrics == "" {
		return nil
	}
	l, err := listenTCP(ctx, n.cfg.Metrics, "--metrics")
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	n.metricsSocket = l
	if !loopback(l) {
		n.cfg.Logger.Warn().Stringer("address", l.Addr()).
			Msg("metrics are served without authentication to everybody who can reach this address")
	}
	return nil
}

func (n *node) serveMetrics() error {
	if err := n.metrics.Serve(n.metricsSocket); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// stopMetrics ends the answers to monitoring, in an orderly way as long as ctx lets it. The admin socket answers no more.
func (n *node) stopMetrics(ctx context.Context) error {
	if err := n.metrics.Shutdown(ctx); err != nil {
		n.cfg.Logger.Warn().Err(err).Msg("monitoring was cut off")
	}
	err := n.metrics.Close()
	n.monitor.requests.Wait()
	return err
}
