// Package authority makes certificates for tests.
//
// An Authority is a CA of its own, made anew each time, that signs certificates for the servers and clients of one
// test. Nothing is kept but what a test writes to its files.
package authority
