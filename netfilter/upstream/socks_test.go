package upstream

import (
	"io"
	"net"
	"strings"
	"testing"
)

// socksServer is a SOCKS5 server that wants a user and password if want is not empty, answers with code
// and returns all that comes then.
func socksServer(want string, code byte, asked chan<- string) func(net.Conn) {
	return func(c net.Conn) {
		if want == "" {
			_, _ = io.ReadFull(c, make([]byte, 3))
			_, _ = c.Write([]byte{5, 0})
		} else {
			_, _ = io.ReadFull(c, make([]byte, 4))
			_, _ = c.Write([]byte{5, 2})
			_, _ = io.ReadFull(c, make([]byte, 1))
			given := field(c) + ":" + field(c)
			if given != want {
				_, _ = c.Write([]byte{1, 1})
				return
			}
			_, _ = c.Write([]byte{1, 0})
		}
		request := make([]byte, 4)
		_, _ = io.ReadFull(c, request)
		to := "address"
		if request[3] == 3 {
			to = field(c)
		}
		_, _ = io.ReadFull(c, make([]byte, 2))
		asked <- to
		_, _ = c.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
		if code == 0 {
			_, _ = io.Copy(c, c)
		}
	}
}

func field(c net.Conn) string {
	n := make([]byte, 1)
	_, _ = io.ReadFull(c, n)
	b := make([]byte, n[0])
	_, _ = io.ReadFull(c, b)
	return string(b)
}

func TestSOCKS(t *testing.T) {
	for name, c := range map[string]struct {
		user, want string
		code       byte
		err        string
	}{
		"open":           {"", "", 0, ""},
		"password":       {"me:hunter2@", "me:hunter2", 0, ""},
		"wrong password": {"me:hunter2@", "me:other", 0, "username/password authentication failed"},
		"refuses":        {"", "", 2, "connection not allowed by ruleset"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 1)
			conn, err := proxyAt(t, "socks5", c.user, socksServer(c.want, c.code, asked)).DialName(timeLimit(t), "example.com", 443)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := <-asked; got != "example.com" {
				t.Errorf("asked for %q and not for the name", got)
			}
			if got := echoed(t, conn, "hello"); got != "hello" {
				t.Errorf("came %q", got)
			}
		})
	}
}
