// Package server answers the control socket of one sandbox. It knows the wire, not
// the sandbox: what it serves is a [Backend].
package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sbx-vm/sbx/machine"
	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// maxRequest bounds a request's body: a command's words and environment.
const maxRequest = 4 << 20

// Backend is the sandbox. Its methods are called concurrently and honour ctx.
type Backend interface {
	Status() machine.Status
	// Stop begins the end and returns when the guest is down.
	Stop(ctx context.Context) error
	// Exec runs a command; it returns when the command has ended. The end of ctx
	// hangs up on the command.
	Exec(ctx context.Context, request control.ExecRequest, streams control.Streams) (control.Exit, error)
	SFTP(ctx context.Context) (io.ReadWriteCloser, error)
	Docker(ctx context.Context) (io.ReadWriteCloser, error)
	Policy() control.PolicyView
	EditPolicy(edit control.PolicyEdit) (control.PolicyView, error)
	Denials(since time.Time) []audit.Entry
	// Pending gives the open questions: at once without seen, else when they differ from those of seen.
	Pending(ctx context.Context, seen *uint64) (control.Pending, error)
	Answer(a control.Answer) error
	Live() []control.Connection
	// Checkpoint begins a checkpoint of the workspace's journal and gives its number.
	Checkpoint(label string) (int, error)
	// Flush has all written to that journal that the guest did before.
	Flush() error
	// Mirror does something with the guest's copy of the workspace, see control.MirrorRequest.
	Mirror(ctx context.Context, do string) (machine.Mirror, error)
	Changes(ctx context.Context) ([]control.Change, error)
	Content(ctx context.Context, path string) (control.Content, error)
	Apply(ctx context.Context, picks []control.Pick) ([]control.Applied, error)
	// ReloadSecrets reads the values again and gives the names of those without one.
	ReloadSecrets(ctx context.Context) (missing []string, err error)
}

// Server listens until Close.
type Server struct {
	backend  Backend
	log      *slog.Logger
	http     *http.Server
	hijacked sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{}
}

// Listen binds the socket at path, which must not exist, and serves it. The file
// is the user's alone.
func Listen(path string, backend Backend, log *slog.Logger) (*Server, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &Server{backend: backend, log: log, done: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+control.PathStatus, s.status)
	mux.HandleFunc("POST "+control.PathStop, s.stop)
	mux.HandleFunc("GET "+control.PathPolicy, s.policy)
	mux.HandleFunc("POST "+control.PathPolicy, s.editPolicy)
	mux.HandleFunc("GET "+control.PathDenials, s.denials)
	mux.HandleFunc("GET "+control.PathPending, s.pending)
	mux.HandleFunc("POST "+control.PathAnswer, s.answer)
	mux.HandleFunc("GET "+control.PathLive, s.live)
	mux.HandleFunc("POST "+control.PathSecrets, s.reloadSecrets)
	mux.HandleFunc("POST "+control.PathCheckpoint, s.checkpoint)
	mux.HandleFunc("POST "+control.PathFlush, s.flush)
	mux.HandleFunc("POST "+control.PathMirror, s.mirror)
	mux.HandleFunc("GET "+control.PathChanges, s.changes)
	mux.HandleFunc("GET "+control.PathContent, s.content)
	mux.HandleFunc("POST "+control.PathApply, s.apply)
	mux.HandleFunc("POST "+control.PathExec, s.exec)
	mux.HandleFunc("POST "+control.PathSFTP, s.stream(backend.SFTP))
	mux.HandleFunc("POST "+control.PathDocker, s.stream(backend.Docker))
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return s.ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(ownOnly{l}); !errors.Is(err, http.ErrServerClosed) {
			log.Error("control socket", "error", err)
		}
	}()
	return s, nil
}

// Close ends the socket and every stream on it. It can be called twice.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	<-s.done
	s.hijacked.Wait()
	return err
}

// ownOnly accepts connections of our own user and root, whatever the socket's
// mode became.
type ownOnly struct{ *net.UnixListener }

func (l ownOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(conn); err == nil && (uid == os.Getuid() || uid == 0) {
			return conn, nil
		}
		conn.Close()
	}
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set(control.HeaderProtocol, strconv.Itoa(control.Protocol))
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(value) //nolint:errcheck // the client is gone
}

func fail(w http.ResponseWriter, status int, err error) {
	w.Header().Set(control.HeaderProtocol, strconv.Itoa(control.Protocol))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(control.Failure{Error: err.Error()}) //nolint:errcheck // the client is gone
}

func decode(r *http.Request, into any) error {
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(into); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return nil
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) { answer(w, s.backend.Status()) }

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	if err := s.backend.Stop(r.Context()); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, struct{}{})
}

func (s *Server) policy(w http.ResponseWriter, _ *http.Request) { answer(w, s.backend.Policy()) }

func (s *Server) editPolicy(w http.ResponseWriter, r *http.Request) {
	var edit control.PolicyEdit
	if err := decode(r, &edit); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	view, err := s.backend.EditPolicy(edit)
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err)
		return
	}
	answer(w, view)
}

func (s *Server) pending(w http.ResponseWriter, r *http.Request) {
	var seen *uint64
	if text := r.FormValue("seen"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		seen = &n
	}
	p, err := s.backend.Pending(r.Context(), seen)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, p)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	var a control.Answer
	if err := decode(r, &a); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if err := s.backend.Answer(a); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, struct{}{})
}

func (s *Server) live(w http.ResponseWriter, _ *http.Request) { answer(w, s.backend.Live()) }

func (s *Server) checkpoint(w http.ResponseWriter, r *http.Request) {
	var request control.CheckpointRequest
	if err := decode(r, &request); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	id, err := s.backend.Checkpoint(request.Label)
	if err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, control.Checkpoint{ID: id})
}

func (s *Server) flush(w http.ResponseWriter, _ *http.Request) {
	if err := s.backend.Flush(); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	answer(w, struct{}{})
}

func (s *Server) reloadSecrets(w http.ResponseWriter, r *http.Request) {
	missing, err := s.backend.ReloadSecrets(r.Context())
	if err != nil {
		fail(w, http.StatusUnprocessableEntity, err)
		return
	}
	answer(w, append([]string{}, missing...))
}

func (s *Server) denials(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339Nano, r.FormValue("since"))
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	answer(w, append([]audit.Entry{}, s.backend.Denials(since)...))
}

// takeOver switches a request's connection to our own streams. The returned
// context ends when the client hangs up or the server closes; release must be called.
func (s *Server) takeOver(w http.ResponseWriter) (conn net.Conn, r *bufio.Reader, err error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sbx\r\n%s: %d\r\n\r\n",
		control.HeaderProtocol, control.Protocol)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, rw.Reader, nil
}

// stream serves a plain byte stream.
func (s *Server) stream(open func(context.Context) (io.ReadWriteCloser, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// What is left of the request's body would be the stream's first bytes.
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxRequest)); err != nil {
			return
		}
		far, err := open(r.Context())
		if err != nil {
			fail(w, http.StatusBadGateway, err)
			return
		}
		defer far.Close()
		s.hijacked.Add(1)
		defer s.hijacked.Done()
		conn, rest, err := s.takeOver(w)
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(s.ctx, func() { conn.Close(); far.Close() })
		defer stop()
		var up sync.WaitGroup
		up.Go(func() {
			io.Copy(far, rest) //nolint:errcheck // either side may hang up
			far.Close()
		})
		io.Copy(conn, far) //nolint:errcheck // see above
		conn.Close()
		up.Wait()
	}
}
