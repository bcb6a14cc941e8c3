package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"lockstep/nbd"
)

// node is one server process.
type node struct {
	cfg       Config
	tls       *nbd.TLS
	host      *host
	notifier  notifier
	nbd       *nbd.Server
	admin     *http.Server
	monitor   *monitor
	metrics   *http.Server       // serves only where there is a metricsSocket
	endCopies context.CancelFunc // of contents
	// requests of operators, which admin's Close does not wait for.
	requests *sync.WaitGroup

	adminSocket   net.Listener
	metricsSocket net.Listener   // nil where none is configured
	sockets       []net.Listener // for NBD: the Unix socket first
}

// Run serves the volumes of a data directory until ctx ends, and returns once everything is closed: nil after an
// orderly stop. It fails at the start where the directory is locked (*LockedError), or an address in use (ErrInUse).
func Run(ctx context.Context, cfg Config) (err error) {
	if err := cfg.validate(); err != nil {
		return err
	}
	offered, err := offeredTLS(cfg)
	if err != nil {
		return err
	}
	dir, err := openDirectory(cfg.DataDir, cfg.Admin, true, cfg.Logger)
	if errors.As(err, new(*LockedError)) {
		return fmt.Errorf("%w; stop that one first, or give another directory with --data-dir", err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.close()) }()
	n := &node{cfg: cfg, tls: offered, host: newHost(dir, cfg.ReadOnly, cfg.Logger),
		notifier: notifier{tell: cfg.Notify, log: cfg.Logger}}
	// All addresses are taken before a volume is opened: a port that is in use is known at once.
	if err := n.listen(ctx); err != nil {
		return errors.Join(err, n.closeSockets())
	}
	return n.run(ctx)
}

func (n *node) listen(ctx context.Context) (err error) {
	if n.adminSocket, err = listenUnix(ctx, n.cfg.Admin, "--admin"); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	l, err := listenUnix(ctx, n.cfg.Unix, "--unix")
	if err != nil {
		return fmt.Errorf("NBD socket: %w", err)
	}
	n.sockets = append(n.sockets, l)
	for _, address := range n.cfg.Listen {
		l, err := listenTCP(ctx, address, "--listen")
		if err != nil {
			return fmt.Errorf("NBD: %w", err)
		}
		n.sockets = append(n.sockets, l)
		n.warnIfOpen(l)
	}
	return n.listenMetrics(ctx)
}

// warnIfOpen says so where others than this machine can reach the volumes and nobody asks who they are.
func (n *node) warnIfOpen(l net.Listener) {
	if n.cfg.TLS == TLSRequire && n.cfg.TLSCA != "" {
		return
	}
	if !loopback(l) {
		n.cfg.Logger.Warn().Stringer("address", l.Addr()).
			Msg("NBD is served without authentication to everybody who can reach this address")
	}
}

// loopback tells whether only this machine can reach a listener.
func loopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return !ok || a.IP.IsLoopback()
}

// closeSockets closes every listener; a Unix socket's file goes with it.
func (n *node) closeSockets() error {
	var errs []error
	for _, l := range append(n.sockets, n.adminSocket, n.metricsSocket) {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// run serves until ctx ends or serving fails, then stops.
func (n *node) run(ctx context.Context) error {
	n.nbd = nbd.NewServer(nbd.Config{Exports: exports{n.host}, TLS: n.tls, Logger: n.cfg.Logger})
	n.host.disconnect, n.host.forget = n.nbd.Disconnect, n.nbd.Forget
	n.monitor = newMonitor(n.host, n.nbd, n.cfg.Logger)
	n.metrics = n.monitor.server()
	copying, endCopies := context.WithCancel(context.WithoutCancel(ctx))
	n.endCopies = endCopies
	a := &admin{manager: n.host, status: n.status, alive: func() { n.host.find("") }, log: n.cfg.Logger, stopping: copying}
	n.admin = &http.Server{Handler: n.monitor.beside(a.handler()), ReadHeaderTimeout: 10 * time.Second}
	n.requests = &a.requests
	serving, serveCtx := errgroup.WithContext(ctx)
	serving.Go(func() error { return n.serveAdmin() })
	if n.metricsSocket != nil {
		serving.Go(func() error { return n.serveMetrics() })
	}
	err := n.notifier.during(func() string { return n.line("opened") }, func() error { return n.open(ctx) })
	if err == nil {
		for _, l := range n.sockets {
			serving.Go(func() error { return n.serveNBD(serveCtx, l) })
		}
		said := n.ready()
		n.notifier.attend(serveCtx, said, n.serving, n.cfg.Watchdog, n.alive)
	}
	return errors.Join(err, n.stop(ctx, serving))
}

// open opens the volumes, or makes one where there are none.
func (n *node) open(ctx context.Context) error {
	if err := n.host.openAll(); err != nil {
		return err
	}
	if len(n.host.all()) > 0 {
		return nil
	}
	n.cfg.Logger.Info().Str("volume", defaultVolume).Int64("size_bytes", defaultVolumeBytes).
		Msg("no volume yet, making one")
	_, err := n.host.Create(ctx, CreateRequest{Name: defaultVolume, SizeBytes: defaultVolumeBytes})
	return err
}

func (n *node) serveAdmin() error {
	if err := n.admin.Serve(n.adminSocket); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin socket: %w", err)
	}
	return nil
}

func (n *node) serveNBD(ctx context.Context, l net.Listener) error {
	if err := n.nbd.Serve(ctx, l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve NBD on %s: %w", l.Addr(), err)
	}
	return nil
}

// ready says that the server serves, and returns the status line that it told the service manager.
func (n *node) ready() string {
	n.monitor.started.Store(true)
	s := n.status()
	n.cfg.Logger.Info().Str("data_dir", s.DataDir).Strs("tcp", s.TCP).Str("tls", s.TLS).Str("unix", s.Unix).Str("metrics", s.Metrics).Int("volumes", len(s.Volumes)).
		Msg("serving")
	line := n.serving()
	n.notifier.say(daemon.SdNotifyReady, statusLine(line))
	if n.cfg.Ready != nil {
		n.cfg.Ready(Endpoints{TCP: s.TCP, TLS: s.TLS, Unix: s.Unix, Admin: n.cfg.Admin, Metrics: s.Metrics, Volumes: s.Volumes})
	}
	return line
}

// serving describes a server that serves in one line.
func (n *node) serving() string { return n.line("serving") }

// status describes the server.
func (n *node) status() Status {
	s := Status{Node: n.host.dir.nodeID, PID: os.Getpid(), DataDir: n.cfg.DataDir, TLS: n.cfg.TLS, Unix: n.cfg.Unix,
		ReadOnly: n.cfg.ReadOnly, TCP: []string{}, Volumes: []VolumeStatus{}}
	for _, l := range n.sockets[1:] {
		s.TCP = append(s.TCP, l.Addr().String())
	}
	if n.metricsSocket != nil {
		s.Metrics = n.metricsSocket.Addr().String()
	}
	for _, d := range n.host.all() {
		s.Volumes = append(s.Volumes, n.host.status(d))
	}
	return s
}

// stop ends everything, in the order in which nothing is used after it is closed.
func (n *node) stop(ctx context.Context, serving *errgroup.Group) error {
	log, begun := n.cfg.Logger, time.Now()
	log.Info().Dur("at_most_ms", n.cfg.ShutdownTimeout).
		Msg("stopping: finishing requests, then moving the log to the base images; a second signal skips that")
	n.notifier.say(daemon.SdNotifyStopping, extend(n.cfg.ShutdownTimeout+stopMargin), statusLine("stopping: finishing requests"))
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.ShutdownTimeout)
	defer cancel()
	if n.cfg.Hurry != nil {
		defer context.AfterFunc(n.cfg.Hurry, cancel)()
	}
	n.host.stop()
	n.endCopies()
	err := errors.Join(n.stopServing(bounded), serving.Wait(), n.closeSockets())
	n.notifier.say(statusLine("stopping: moving the logs to the base images"))
	err = errors.Join(err, n.host.closeAll(bounded))
	log.Info().Dur("took_ms", time.Since(begun)).Msg("stopped")
	return err
}

// stopServing ends all connections, in an orderly way as long as ctx lets it.
func (n *node) stopServing(ctx context.Context) error {
	if err := n.nbd.Shutdown(ctx); err != nil {
		n.cfg.Logger.Warn().Err(err).Msg("NBD clients were cut off")
	}
	if err := n.nbd.Close(); err != nil {
		return fmt.Errorf("close NBD server: %w", err)
	}
	if err := n.admin.Shutdown(ctx); err != nil {
		n.cfg.Logger.Warn().Err(err).Msg("operators were cut off")
	}
	err := n.admin.Close()
	n.requests.Wait()
	return errors.Join(err, n.stopMetrics(ctx))
}
