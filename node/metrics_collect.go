package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"lockstep/nbd"
	"lockstep/volume"
)

// collector reads, at each scrape, what volumes, logs and NBD server count.
type collector struct {
	host      *host
	nbd       *nbd.Server
	readiness func() Readiness

	node    []family[Readiness]
	server  []family[nbd.Stats]
	disks   []family[string] // of the state of each volume
	volumes []family[volume.Stats]
	exports []family[nbd.ExportStats]
}

func newCollector(h *host, server *nbd.Server, readiness func() Readiness) *collector {
	return &collector{
		host: h, nbd: server, readiness: readiness,
		node: nodeFamilies(), server: serverFamilies(), disks: diskFamilies(),
		volumes: append(volumeFamilies(), logFamilies()...), exports: exportFamilies(),
	}
}

func nodeFamilies() []family[Readiness] {
	return []family[Readiness]{
		number(kindGauge, "lockstep_ready", "1 when every volume is served and none has failed, as /readyz says.", nil,
			func(r Readiness) float64 { return truth(r.Ready) }),
	}
}

// diskFamilies are there for every volume, open or not.
func diskFamilies() []family[string] {
	return []family[string]{
		number(kindGauge, "lockstep_volume_failed", "1 where the volume could not be opened, or takes no more changes.", []string{"volume"},
			func(state string) float64 { return truth(state == StateFailed) }),
		each(kindGauge, "lockstep_volume_state", "1 for the state that the volume is in: served, failed, opening, creating or deleting.",
			[]string{"volume", "state"}, func(state string, to sink) {
				for _, s := range states() {
					to.number(truth(s == state), s)
				}
			}),
	}
}

// families are all there are, in the order in which people read them.
func (c *collector) families() []about {
	var all []about
	all = appendAbout(all, c.node)
	all = appendAbout(all, c.exports)
	all = appendAbout(all, c.server)
	all = appendAbout(all, c.disks)
	return appendAbout(all, c.volumes)
}

func appendAbout[T any](all []about, families []family[T]) []about {
	for _, f := range families {
		all = append(all, f.about)
	}
	return all
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, a := range c.families() {
		ch <- a.desc()
	}
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for i := range c.node {
		c.node[i].collect(c.readiness(), ch)
	}
	served := c.nbd.Stats()
	for i := range c.server {
		c.server[i].collect(served, ch)
	}
	for _, d := range c.host.all() {
		c.collectDisk(d, served.Export(d.name), ch)
	}
}

func (c *collector) collectDisk(d *disk, export nbd.ExportStats, ch chan<- prometheus.Metric) {
	state := c.host.standing(d)
	for i := range c.disks {
		c.disks[i].collect(state, ch, d.name)
	}
	for i := range c.exports {
		c.exports[i].collect(export, ch, d.name)
	}
	held, err := c.host.acquire(d.name)
	if err != nil {
		return // it is not open, which its state says
	}
	stats := held.volume.Stats()
	c.host.release(held)
	for i := range c.volumes {
		c.volumes[i].collect(stats, ch, d.name)
	}
}
