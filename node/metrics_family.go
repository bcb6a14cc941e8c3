package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"lockstep/histogram"
)

// metricKind is what sort of metric a family is, in the words of Prometheus.
type metricKind string

const (
	kindCounter   metricKind = "counter"
	kindGauge     metricKind = "gauge"
	kindHistogram metricKind = "histogram"
)

// about is what a family says of itself.
type about struct {
	name, help string
	kind       metricKind
	labels     []string
}

func (a about) desc() *prometheus.Desc { return prometheus.NewDesc(a.name, a.help, a.labels, nil) }

// family is one metric that is read from a T.
type family[T any] struct {
	about
	read func(s T, to sink)
	desc *prometheus.Desc
}

// number is a family of one value for each T.
func number[T any](k metricKind, name, help string, labels []string, value func(T) float64) family[T] {
	return each(k, name, help, labels, func(s T, to sink) { to.number(value(s)) })
}

// distribution is a family of one histogram for each T.
func distribution[T any](name, help string, labels []string, value func(T) histogram.Snapshot) family[T] {
	return each(kindHistogram, name, help, labels, func(s T, to sink) { to.histogram(value(s)) })
}

// each is a family with any number of values, told apart by the last of its labels.
func each[T any](k metricKind, name, help string, labels []string, read func(T, sink)) family[T] {
	a := about{name: name, help: help, kind: k, labels: labels}
	return family[T]{about: a, read: read, desc: a.desc()}
}

// collect sends what the family reads from s; labels are the values of the first ones of its labels.
func (f *family[T]) collect(s T, ch chan<- prometheus.Metric, labels ...string) {
	f.read(s, sink{ch: ch, desc: f.desc, kind: f.kind, labels: labels})
}

// sink takes the values of one family.
type sink struct {
	ch     chan<- prometheus.Metric
	desc   *prometheus.Desc
	kind   metricKind
	labels []string
}

func (to sink) number(value float64, labels ...string) {
	k := prometheus.GaugeValue
	if to.kind == kindCounter {
		k = prometheus.CounterValue
	}
	to.ch <- prometheus.MustNewConstMetric(to.desc, k, value, to.all(labels)...)
}

// histogram sends a snapshot, whose buckets Prometheus wants with all that is in the smaller ones.
func (to sink) histogram(s histogram.Snapshot, labels ...string) {
	buckets, below := make(map[float64]uint64, len(s.Bounds)), uint64(0)
	for i, bound := range s.Bounds {
		below += s.Counts[i]
		buckets[bound] = below
	}
	to.ch <- prometheus.MustNewConstHistogram(to.desc, s.Count, s.Sum, buckets, to.all(labels)...)
}

func (to sink) all(labels []string) []string {
	return append(to.labels[:len(to.labels):len(to.labels)], labels...)
}

// truth is 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
