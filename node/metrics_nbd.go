package node

import (
	"lockstep/histogram"
	"lockstep/nbd"
)

// serverFamilies are read from the NBD server as a whole.
func serverFamilies() []family[nbd.Stats] {
	type stats = nbd.Stats
	return []family[stats]{
		each(kindGauge, "lockstep_nbd_connections", "Connections: handshaking, transmitting or draining.", []string{"state"},
			func(s stats, to sink) {
				to.number(float64(s.Handshaking), "handshaking")
				to.number(float64(s.Transmitting), "transmitting")
				to.number(float64(s.Draining), "draining")
			}),
		number(kindCounter, "lockstep_nbd_connections_accepted_total", "Connections accepted.", nil,
			func(s stats) float64 { return float64(s.Accepted) }),
		number(kindCounter, "lockstep_nbd_connections_refused_total", "Connections closed at once, because there were too many.", nil,
			func(s stats) float64 { return float64(s.Refused) }),
		each(kindCounter, "lockstep_nbd_handshake_failures_total", "Handshakes that ended without an export, by reason.", []string{"reason"},
			func(s stats, to sink) {
				for _, reason := range nbd.HandshakeReasons() {
					to.number(float64(s.HandshakeFailures[reason]), reason)
				}
			}),
		number(kindGauge, "lockstep_nbd_in_flight_bytes", "What requests count for that are not answered: their data and 4 KiB each.", nil,
			func(s stats) float64 { return float64(s.InFlightBytes) }),
		each(kindGauge, "lockstep_nbd_buffer_used_bytes", "Buffers that are taken: receive, large or reply.", []string{"pool"},
			func(s stats, to sink) {
				for _, b := range s.Buffers {
					to.number(float64(b.UsedBytes), b.Name)
				}
			}),
		each(kindGauge, "lockstep_nbd_buffer_limit_bytes", "Buffers that there may be.", []string{"pool"},
			func(s stats, to sink) {
				for _, b := range s.Buffers {
					to.number(float64(b.LimitBytes), b.Name)
				}
			}),
	}
}

// exportFamilies are read from the NBD server for each volume. Their counters begin when the server starts.
func exportFamilies() []family[nbd.ExportStats] {
	type stats = nbd.ExportStats
	volume, command := []string{"volume"}, []string{"volume", "command"}
	each := func(k metricKind, name, help string, labels []string, read func(nbd.CommandStats, sink)) family[stats] {
		return each(k, name, help, labels, func(s stats, to sink) {
			for _, c := range s.Commands {
				read(c, to)
			}
		})
	}
	return []family[stats]{
		number(kindGauge, "lockstep_nbd_volume_connections", "Connections that use the volume.", volume,
			func(s stats) float64 { return float64(s.Connections) }),
		each(kindCounter, "lockstep_nbd_requests_total", "Requests received.", command,
			func(c nbd.CommandStats, to sink) { to.number(float64(c.Requests), c.Command) }),
		each(kindCounter, "lockstep_nbd_request_bytes_total", "Bytes that valid requests were about.", command,
			func(c nbd.CommandStats, to sink) { to.number(float64(c.Bytes), c.Command) }),
		each(kindCounter, "lockstep_nbd_request_errors_total", "Requests answered with an error, by its code.",
			[]string{"volume", "command", "code"},
			func(c nbd.CommandStats, to sink) {
				for _, code := range nbd.ErrorCodes() { // all: an increase from nothing to 1 is none to Prometheus
					to.number(float64(c.Errors[code]), c.Command, code)
				}
			}),
		each(kindHistogram, "lockstep_nbd_request_duration_seconds", "From a request's parsing to the moment its answer has left.", command,
			func(c nbd.CommandStats, to sink) { to.histogram(c.Latency, c.Command) }),
		distribution("lockstep_nbd_batch_requests", "Requests that were carried out together.", volume,
			func(s stats) histogram.Snapshot { return s.Batch }),
	}
}
