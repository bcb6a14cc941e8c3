package main

import (
	"fmt"
	"net"

	"lockstep/node"
)

// options is all that can be set.
type options struct {
	node.Config // what no setting sets in it stays zero
	configFile  string
	logLevel    string
	logFormat   string
}

// settings is the one list of what can be set, in the order in which people are shown it. To add a setting: a field for
// its value, in node.Config or above; a row here; and the row of README's table that TestReadmeSettings then asks for.
// Flag, variable, key of the file, `lockstep config` and its template follow from the row.
func settings() []setting {
	return []setting{
		{name: "config", standard: defaultConfigFile, unset: "none", fileless: true,
			usage: "read settings from `FILE`; the default one may be missing",
			value: func(o *options) value { return path{&o.configFile} }},
		{name: "data-dir", standard: node.DefaultDataDir, example: "/var/lib/lockstep",
			usage: "`DIR` that everything is kept in",
			value: func(o *options) value { return path{&o.DataDir} }},
		{name: "admin", unset: "admin.sock in the data directory", example: "/run/lockstep/admin.sock",
			usage: "the server takes commands on the Unix socket `PATH`",
			value: func(o *options) value { return path{&o.Admin} }},
		{name: "log-level", standard: "info", quiet: "warn",
			usage: "`LEVEL` from which on things are logged to stderr: debug, info, warn or error",
			value: func(o *options) value { return text{&o.logLevel, oneOf("debug", "info", "warn", "error")} }},
		{name: "log-format", standard: formatAuto,
			usage: "`FORMAT` of the log: human, json, or auto, which is human on a terminal",
			value: func(o *options) value { return text{&o.logFormat, oneOf(formatAuto, formatHuman, formatJSON)} }},
		{name: "listen", standard: node.DefaultListen, server: true,
			usage: "serve NBD on this `HOST:PORT`; may be repeated; none for no TCP at all",
			value: func(o *options) value { return list{&o.Listen, checkAddress} }},
		{name: "unix", unset: "lockstep.sock in the data directory", example: "/run/lockstep/lockstep.sock", server: true,
			usage: "serve NBD on the Unix socket `PATH`",
			value: func(o *options) value { return path{&o.Unix} }},
		{name: "tls", unset: "on with a certificate, else off", example: "require", server: true,
			usage: "`MODE`: off; on, clients may switch to TLS; or require, those over TCP have to",
			value: func(o *options) value { return text{&o.TLS, node.CheckTLS} }},
		{name: "tls-cert", unset: "none", example: "/etc/lockstep/server-cert.pem", server: true,
			usage: "the server's certificate is in this `FILE`, in PEM form",
			value: func(o *options) value { return path{&o.TLSCert} }},
		{name: "tls-key", unset: "none", example: "/etc/lockstep/server-key.pem", server: true,
			usage: "and its private key in this `FILE`",
			value: func(o *options) value { return path{&o.TLSKey} }},
		{name: "tls-ca", unset: "none", example: "/etc/lockstep/ca-cert.pem", server: true,
			usage: "clients need a certificate that a CA in this `FILE` signed",
			value: func(o *options) value { return path{&o.TLSCA} }},
		{name: "metrics", unset: "none", example: "127.0.0.1:9809", server: true,
			usage: "serve metrics and health over HTTP on this `HOST:PORT`, too",
			value: func(o *options) value { return text{&o.Metrics, checkAddress} }},
		{name: "read-only", standard: "false", server: true,
			usage: "let no client change anything",
			value: func(o *options) value { return truth{&o.ReadOnly} }},
		{name: "shutdown-timeout", standard: node.DefaultShutdownTimeout.String(), server: true,
			usage: "stop within this `TIME`, at the price of a longer next start",
			value: func(o *options) value { return duration{&o.ShutdownTimeout} }},
	}
}

func checkAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil || port == "" {
		return fmt.Errorf("%q is not host:port, as in %s", text, node.DefaultListen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q: there is no port %s; it is a number up to 65535", text, port)
	}
	return nil
}
