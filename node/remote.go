package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// Remote is the Manager of a running server, over its admin socket.
type Remote struct {
	socket string
	http   *http.Client
}

// NewRemote returns the Manager of the server that answers on an admin socket. It does not connect yet.
func NewRemote(socket string) *Remote {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Remote{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks the server about itself.
func (r *Remote) Status(ctx context.Context) (s Status, err error) {
	return s, r.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// alive returns nil where the server answers.
func (r *Remote) alive(ctx context.Context) error {
	return r.call(ctx, http.MethodGet, "/v1/alive", nil, &struct{}{})
}

// List is the Manager's.
func (r *Remote) List(ctx context.Context) (list []VolumeStatus, err error) {
	return list, r.call(ctx, http.MethodGet, "/v1/volumes", nil, &list)
}

// Show is the Manager's.
func (r *Remote) Show(ctx context.Context, name string) (s VolumeStatus, err error) {
	return s, r.call(ctx, http.MethodGet, volumePath(name), nil, &s)
}

// Create is the Manager's.
func (r *Remote) Create(ctx context.Context, req CreateRequest) (s VolumeStatus, err error) {
	return s, r.post(ctx, "/v1/volumes", req, &s)
}

// Inspect is the Manager's.
func (r *Remote) Inspect(ctx context.Context, name string, req InspectRequest) (i Inspection, err error) {
	return i, r.post(ctx, volumePath(name)+"/inspect", req, &i)
}

// Recover is the Manager's.
func (r *Remote) Recover(ctx context.Context, name string, req RecoverRequest) (report RecoverReport, err error) {
	return report, r.post(ctx, volumePath(name)+"/recover", req, &report)
}

// Delete is the Manager's.
func (r *Remote) Delete(ctx context.Context, name string, force bool) error {
	return r.call(ctx, http.MethodDelete, volumePath(name)+forceQuery(force), nil, &struct{}{})
}

// Checkpoint is the Manager's.
func (r *Remote) Checkpoint(ctx context.Context, name string) error {
	return r.call(ctx, http.MethodPost, volumePath(name)+"/checkpoint", nil, &struct{}{})
}

// Export is the Manager's.
func (r *Remote) Export(ctx context.Context, name string, force bool, to Sink) error {
	resp, err := r.send(ctx, http.MethodGet, volumePath(name)+"/data"+forceQuery(force), nil)
	if err != nil {
		return err
	}
	return errors.Join(copyContent(&streamReader{r: resp.Body}, to), resp.Body.Close())
}

// Import is the Manager's.
func (r *Remote) Import(ctx context.Context, req CreateRequest, from Source) (s VolumeStatus, err error) {
	query := url.Values{"size_bytes": {strconv.FormatInt(req.SizeBytes, 10)}, "block_size": {strconv.Itoa(req.BlockSize)},
		"backend": {req.Backend}, "wal_dir": {req.LogDir}, "wal_size_bytes": {strconv.FormatInt(req.LogBytes, 10)},
		"force": {strconv.FormatBool(req.Force)}}
	body, content := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := copyContent(from, streamWriter{content})
		// Without its end frame the server refuses the stream, removes what there is of the volume, and then answers.
		sent <- errors.Join(err, content.Close())
	}()
	err = r.call(ctx, http.MethodPut, volumePath(req.Name)+"/data?"+query.Encode(), body, &s)
	_ = body.CloseWithError(io.ErrClosedPipe) // ends the copy where the server answered before its end
	if failed := <-sent; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return VolumeStatus{}, failed
	}
	return s, err
}

// Close gives connections back.
func (r *Remote) Close() error {
	r.http.CloseIdleConnections()
	return nil
}

func volumePath(name string) string { return "/v1/volumes/" + url.PathEscape(name) }

func forceQuery(force bool) string {
	if force {
		return "?force=true"
	}
	return ""
}

// post sends a request with a JSON body.
func (r *Remote) post(ctx context.Context, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return r.call(ctx, http.MethodPost, path, bytes.NewReader(text), into)
}

// call sends a request and decodes its answer.
func (r *Remote) call(ctx context.Context, method, path string, body io.Reader, into any) error {
	resp, err := r.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	err = json.NewDecoder(resp.Body).Decode(into)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("answer of the server at %s: %w", r.socket, err)
	}
	return nil
}

// send sends a request; an answer that is an error is returned as one.
func (r *Remote) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://lockstep"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", streamType)
	req.Header.Set("Content-Type", streamType)
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server at %s: %w", r.socket, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	var f failure
	err = json.NewDecoder(io.LimitReader(resp.Body, maxBodyBytes)).Decode(&f)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("the server at %s answered %s: %w", r.socket, resp.Status, err)
	}
	return nil, remoteError{text: f.Error, code: resp.StatusCode}
}

// remoteError is an error of the server, in its words. It is the sentinel that has the answer's code.
type remoteError struct {
	text string
	code int
}

func (e remoteError) Error() string { return e.text }

// Is reports whether the server's error may have wrapped the target.
func (e remoteError) Is(target error) bool {
	for _, c := range codes() {
		if c.err == target {
			return c.code == e.code
		}
	}
	return false
}
