package gateway

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// smallCopy waits for bytes on a quiet connection, bigCopy moves them on a busy
	// one and is borrowed only while it does.
	smallCopy = 4 << 10
	bigCopy   = 128 << 10
)

var errCopy = errors.New("copying broke off")

// copies copies, and keeps the big buffers between bursts.
type copies struct{ pool sync.Pool }

// halfCloser is a connection whose directions end one by one.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// splice carries bytes both ways until both directions have ended or the flow has.
// It closes both connections: in order after two orderly ends, by reset otherwise.
func (g *Gateway) splice(f *flow, guest guestConn, up upstream, proto string) {
	g.carry(f, guest, guest, up, up)
	g.ended(f, proto, up)
}

// carry is splice with readers that may have bytes of their own in front.
func (g *Gateway) carry(f *flow, guest guestSide, guestIn io.Reader, up upstream, upIn io.Reader) {
	orderly := context.AfterFunc(f.ctx, func() { // also after a panic here, when the flow is finished
		guest.reset()
		up.Close()
	})
	upErr, downErr := errCopy, error(nil)
	var both sync.WaitGroup
	both.Go(func() {
		defer func() {
			if upErr != nil {
				f.end(upErr)
			}
		}()
		defer g.recoverPanic("copy")
		upErr = g.copies.pump(up, guestIn, &f.up)
	})
	if downErr = g.copies.pump(guest, upIn, &f.down); downErr != nil {
		f.end(downErr)
	}
	both.Wait()
	if upErr == nil && downErr == nil {
		guest.drain(f.ctx)
	}
	if orderly() && (upErr != nil || downErr != nil) {
		guest.reset()
	}
	_ = guest.Close()
	up.Close()
}

// pump copies one direction to its end and passes the end on.
func (c *copies) pump(dst halfCloser, src io.Reader, count *atomic.Int64) error {
	if guest, ok := dst.(guestConn); ok {
		if from := rawOf(src); from != nil {
			if err := guest.takeAll(from, count); !errors.Is(err, io.EOF) {
				return err
			}
			return guest.CloseWrite()
		}
	}
	small := make([]byte, smallCopy)
	for {
		n, err := copyOnce(dst, src, small, count)
		if err == nil && n == len(small) {
			err = c.burst(dst, src, count)
		}
		if errors.Is(err, io.EOF) {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

// burst copies with a big buffer for as long as reads come well filled.
func (c *copies) burst(dst io.Writer, src io.Reader, count *atomic.Int64) error {
	buf, ok := c.pool.Get().(*[]byte)
	if !ok {
		b := make([]byte, bigCopy)
		buf = &b
	}
	defer c.pool.Put(buf)
	for {
		n, err := copyOnce(dst, src, *buf, count)
		if err != nil || n < smallCopy {
			return err
		}
	}
}

func copyOnce(dst io.Writer, src io.Reader, buf []byte, count *atomic.Int64) (int, error) {
	n, err := src.Read(buf)
	if n > 0 {
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return n, werr
		}
		count.Add(int64(n))
	}
	return n, err
}
