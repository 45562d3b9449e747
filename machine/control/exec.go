package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// Streams are what a command is connected to. Stdin of nil is closed from the
// start. Resize and Signals may be nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan WinSize
	Signals        <-chan string // SSH's names, such as "INT"
}

// Exec runs a command in the guest and gives its exit status as a shell does. An
// error means that sbx failed, not the command. When ctx ends, the command gets
// SIGHUP and, if that does not end it, SIGKILL.
//
// A goroutine that reads Stdin may outlive the call, because a read from a
// terminal cannot be called back.
func (c *Client) Exec(ctx context.Context, request ExecRequest, streams Streams) (int, error) {
	conn, r, err := c.upgrade(ctx, PathExec, request)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	w := NewFrameWriter(conn)
	go feed(w, streams.Stdin)
	go relay(w, streams, ended)
	exit, err := receive(r, streams)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, err
	}
	return exit.Code(), nil
}

func feed(w *FrameWriter, stdin io.Reader) {
	if stdin != nil {
		// An error of stdin ends the input: the command decides what that means.
		io.CopyBuffer(onlyWriter{w.Stream(FrameStdin)}, stdin, make([]byte, MaxFrame/2)) //nolint:errcheck // the connection's end is seen by the reader
	}
	w.Write(FrameStdinEOF, nil) //nolint:errcheck // see above
}

// onlyWriter hides other methods from io.Copy.
type onlyWriter struct{ io.Writer }

// relay passes sizes and signals on until the command has ended.
func relay(w *FrameWriter, streams Streams, ended <-chan struct{}) {
	for {
		var err error
		select {
		case <-ended:
			return
		case size := <-streams.Resize:
			err = w.JSON(FrameResize, size)
		case name := <-streams.Signals:
			err = w.Write(FrameSignal, []byte(name))
		}
		if err != nil {
			return
		}
	}
}

func receive(r io.Reader, streams Streams) (Exit, error) {
	var buf []byte
	for {
		kind, data, err := ReadFrame(r, buf)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
				err = errors.New("the sandbox ended while the command ran")
			}
			return Exit{}, err
		}
		buf = data
		switch kind {
		case FrameStdout:
			_, err = streams.Stdout.Write(data)
		case FrameStderr:
			_, err = streams.Stderr.Write(data)
		case FrameExit:
			var exit Exit
			return exit, json.Unmarshal(data, &exit)
		case FrameError:
			return Exit{}, errors.New(string(data))
		default:
			return Exit{}, fmt.Errorf("the supervisor sent a frame of kind %q", byte(kind))
		}
		if err != nil {
			return Exit{}, fmt.Errorf("write output: %w", err)
		}
	}
}
