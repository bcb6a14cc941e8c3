package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"lockstep/volume"
)

const (
	adminSocketName = "admin.sock"
	// No command's body comes near to it; contents are streams and not limited by it.
	maxBodyBytes = 64 << 10
)

// admin is the HTTP interface of a server:
//
//	GET    /v1/alive
//	GET    /v1/status
//	GET    /v1/volumes
//	POST   /v1/volumes                     a CreateRequest
//	GET    /v1/volumes/{name}
//	DELETE /v1/volumes/{name}[?force=true]
//	POST   /v1/volumes/{name}/checkpoint
//	POST   /v1/volumes/{name}/reopen
//	POST   /v1/volumes/{name}/resize       a ResizeRequest
//	POST   /v1/volumes/{name}/inspect      an InspectRequest
//	POST   /v1/volumes/{name}/recover      a RecoverRequest
//	GET    /v1/volumes/{name}/data[?force=true]
//	PUT    /v1/volumes/{name}/data?size_bytes=…[&block_size=…&backend=…&wal_dir=…&wal_size_bytes=…&force=true]
//
// Answers are JSON; an error is {"error": "…"} with a fitting code. Data are plain bytes, or an extent stream where the
// client accepts, or sends, that media type.
type admin struct {
	manager Manager
	status  func() Status
	alive   func() // returns where the server is not stuck; asks no disk
	log     zerolog.Logger
	// stopping ends when contents are to be copied no further.
	stopping context.Context
	// requests are those being answered; the server's own Close does not wait for them.
	requests sync.WaitGroup
}

func (a *admin) handler() http.Handler {
	mux := a.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		defer a.requests.Done()
		if _, pattern := mux.Handler(r); pattern == "" {
			a.refuse(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// refuse answers a request that there is not, with the code, 404 or 405, that the mux has for it.
func (a *admin) refuse(w http.ResponseWriter, r *http.Request, mux http.Handler) {
	refused := &codeWriter{ResponseWriter: w}
	mux.ServeHTTP(refused, r)
	a.write(w, refused.code, failure{fmt.Sprintf("there is no request %s %s; README, \"Admin API\", has all", r.Method, r.URL.Path)})
}

// codeWriter keeps an answer's code, and drops its text.
type codeWriter struct {
	http.ResponseWriter
	code int
}

func (w *codeWriter) WriteHeader(code int)        { w.code = code }
func (w *codeWriter) Write(p []byte) (int, error) { return len(p), nil }

func (a *admin) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/alive", func(w http.ResponseWriter, _ *http.Request) {
		a.alive()
		a.answer(w, struct{}{}, nil)
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.status(), nil) })
	mux.HandleFunc("GET /v1/volumes", func(w http.ResponseWriter, r *http.Request) {
		list, err := a.manager.List(r.Context())
		a.answer(w, list, err)
	})
	mux.HandleFunc("POST /v1/volumes", func(w http.ResponseWriter, r *http.Request) {
		withBody(a, w, r, func(ctx context.Context, _ string, req CreateRequest) (VolumeStatus, error) {
			return a.manager.Create(ctx, req)
		})
	})
	mux.HandleFunc("GET /v1/volumes/{name}", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.manager.Show(r.Context(), r.PathValue("name"))
		a.answer(w, s, err)
	})
	mux.HandleFunc("DELETE /v1/volumes/{name}", func(w http.ResponseWriter, r *http.Request) {
		a.answer(w, struct{}{}, a.manager.Delete(r.Context(), r.PathValue("name"), forced(r)))
	})
	mux.HandleFunc("POST /v1/volumes/{name}/checkpoint", func(w http.ResponseWriter, r *http.Request) {
		a.answer(w, struct{}{}, a.manager.Checkpoint(r.Context(), r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/volumes/{name}/reopen", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.manager.Reopen(r.Context(), r.PathValue("name"))
		a.answer(w, s, err)
	})
	mux.HandleFunc("POST /v1/volumes/{name}/resize", func(w http.ResponseWriter, r *http.Request) {
		withBody(a, w, r, a.manager.Resize)
	})
	mux.HandleFunc("POST /v1/volumes/{name}/inspect", func(w http.ResponseWriter, r *http.Request) {
		withBody(a, w, r, a.manager.Inspect)
	})
	mux.HandleFunc("POST /v1/volumes/{name}/recover", func(w http.ResponseWriter, r *http.Request) {
		withBody(a, w, r, a.manager.Recover)
	})
	mux.HandleFunc("GET /v1/volumes/{name}/data", a.export)
	mux.HandleFunc("PUT /v1/volumes/{name}/data", a.imports)
	return mux
}

func forced(r *http.Request) bool { return r.URL.Query().Get("force") == "true" }

// withBody carries out a command on a volume that is described in the body.
func withBody[Request, Report any](a *admin, w http.ResponseWriter, r *http.Request,
	do func(context.Context, string, Request) (Report, error)) {
	var req Request
	if err := decodeStrict(http.MaxBytesReader(w, r.Body, maxBodyBytes), &req); err != nil {
		a.answer(w, nil, fmt.Errorf("%w: %w", ErrRequest, err))
		return
	}
	report, err := do(r.Context(), r.PathValue("name"), req)
	a.answer(w, report, err)
}

// export streams a volume. Once bytes have been sent, an extent stream says in its last frame why it is not whole, and
// a plain one is cut off.
func (a *admin) export(w http.ResponseWriter, r *http.Request) {
	defer a.untilStopping(http.NewResponseController(w).SetWriteDeadline)()
	started := &startedWriter{ResponseWriter: w}
	var to Sink = rawWriter{started}
	asExtents := r.Header.Get("Accept") == streamType
	if asExtents {
		to = streamWriter{started}
		w.Header().Set("Content-Type", streamType)
	}
	err := a.manager.Export(r.Context(), r.PathValue("name"), forced(r), to)
	switch {
	case err == nil:
	case !started.started:
		a.answer(w, nil, err)
	case asExtents:
		// If this fails too, the stream has no end, and so is not taken for a whole one.
		_ = streamWriter{started}.fail(err)
	default:
		panic(http.ErrAbortHandler)
	}
}

// untilStopping ends a copy with a client that gives nothing, or takes nothing, once the server is to stop, by the
// deadline of what it waits for. The caller calls done when the copy has ended.
func (a *admin) untilStopping(setDeadline func(time.Time) error) (done func() bool) {
	return context.AfterFunc(a.stopping, func() {
		// A connection without deadlines is cut off a little later.
		_ = setDeadline(time.Unix(1, 0))
	})
}

// startedWriter knows whether anything of an answer was written.
type startedWriter struct {
	http.ResponseWriter
	started bool
}

func (w *startedWriter) Write(p []byte) (int, error) {
	w.started = true
	return w.ResponseWriter.Write(p)
}

func (a *admin) imports(w http.ResponseWriter, r *http.Request) {
	req, err := importRequest(r)
	if err != nil {
		a.answer(w, nil, err)
		return
	}
	defer a.untilStopping(http.NewResponseController(w).SetReadDeadline)()
	var from Source = &rawReader{r: r.Body}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == streamType {
		from = &streamReader{r: r.Body}
	}
	s, err := a.manager.Import(r.Context(), req, from)
	a.answer(w, s, err)
}

// importRequest reads a CreateRequest from a query, strictly.
func importRequest(r *http.Request) (CreateRequest, error) {
	req := CreateRequest{Name: r.PathValue("name")}
	for key, values := range r.URL.Query() {
		var err error
		switch value := values[0]; key {
		case "size_bytes":
			req.SizeBytes, err = strconv.ParseInt(value, 10, 64)
		case "block_size":
			req.BlockSize, err = strconv.Atoi(value)
		case "backend":
			req.Backend = value
		case "wal_dir":
			req.LogDir = value
		case "wal_size_bytes":
			req.LogBytes, err = strconv.ParseInt(value, 10, 64)
		case "force":
			req.Force, err = strconv.ParseBool(value)
		default:
			err = errors.New("unknown")
		}
		if err != nil {
			return CreateRequest{}, fmt.Errorf("%w: parameter %q: %w", ErrRequest, key, err)
		}
	}
	return req, nil
}

// answer writes a value, or the error if there is one.
func (a *admin) answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		a.write(w, httpCode(err), failure{err.Error()})
		return
	}
	a.write(w, http.StatusOK, value)
}

func (a *admin) write(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		a.log.Debug().Err(err).Msg("operator left before the answer")
	}
}

// failure is the body of an answer that is an error.
type failure struct {
	Error string `json:"error"`
}

// codes has the HTTP code of each error that has one; the first that fits counts.
func codes() []coded {
	return []coded{
		{ErrNotFound, http.StatusNotFound},
		{ErrExists, http.StatusConflict},
		{ErrUnavailable, http.StatusServiceUnavailable},
		{ErrInUse, http.StatusLocked},
		{ErrName, http.StatusBadRequest},
		{ErrRequest, http.StatusBadRequest},
		{ErrLogSize, http.StatusInsufficientStorage},
		{ErrNoRoom, http.StatusUnprocessableEntity},
		{volume.ErrSize, http.StatusBadRequest},
		{volume.ErrNeedsForce, http.StatusPreconditionFailed},
		{ErrTooLong, http.StatusRequestEntityTooLarge},
		{context.Canceled, http.StatusServiceUnavailable},
	}
}

type coded struct {
	err  error
	code int
}

func httpCode(err error) int {
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return http.StatusInternalServerError
}
