package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/sbx-vm/sbx/machine/control"
)

// exec serves one command's frames.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	var request control.ExecRequest
	if err := decode(r, &request); err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	s.hijacked.Add(1)
	defer s.hijacked.Done()
	conn, rest, err := s.takeOver(w)
	if err != nil {
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()

	out := control.NewFrameWriter(conn)
	stdin, input := io.Pipe()
	resize, signals := make(chan control.WinSize), make(chan string)
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		// The client's end is the end of its command.
		defer cancel()
		err := readFrames(ctx, rest, input, resize, signals)
		input.CloseWithError(err)
	}()
	exit, err := s.backend.Exec(ctx, request, control.Streams{
		Stdin: stdin, Stdout: out.Stream(control.FrameStdout), Stderr: out.Stream(control.FrameStderr), Resize: resize, Signals: signals,
	})
	stdin.Close()
	if err != nil {
		err = out.Write(control.FrameError, []byte(err.Error()))
	} else {
		err = out.JSON(control.FrameExit, exit)
	}
	if err != nil {
		s.log.Debug("exec: the client is gone", "error", err)
	}
	cancel()
	conn.Close()
	<-reader
}

// readFrames hands out what the client sends until it hangs up.
func readFrames(ctx context.Context, r io.Reader, stdin *io.PipeWriter, resize chan<- control.WinSize, signals chan<- string) error {
	var buf []byte
	for {
		kind, data, err := control.ReadFrame(r, buf)
		if err != nil {
			return err
		}
		buf = data
		switch kind {
		case control.FrameStdin:
			// A command that closed its input is no reason to hang up.
			if _, err := stdin.Write(data); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return err
			}
		case control.FrameStdinEOF:
			stdin.Close()
		case control.FrameResize:
			var size control.WinSize
			if err := json.Unmarshal(data, &size); err != nil {
				return err
			}
			err = offer(ctx, resize, size)
		case control.FrameSignal:
			err = offer(ctx, signals, string(data))
		default:
			return errors.New("unknown frame")
		}
		if err != nil {
			return err
		}
	}
}

func offer[T any](ctx context.Context, to chan<- T, value T) error {
	select {
	case to <- value:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
