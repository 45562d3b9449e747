package qmp

import (
	"context"
	"fmt"
	"net"

	"github.com/digitalocean/go-libvirt"
)

// Domain is a virtual machine that libvirt knows.
type Domain struct {
	Name    string
	Running bool
}

// LibvirtDomains lists the machines of the libvirt daemon that listens at socket
// (/var/run/libvirt/libvirt-sock). go-libvirt takes no contexts: the calls run
// aside and the connection is closed under them when ctx ends.
func LibvirtDomains(ctx context.Context, socket string) ([]Domain, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dial libvirt at %q: %w", socket, err)
	}
	defer conn.Close()
	type answer struct {
		domains []Domain
		err     error
	}
	done := make(chan answer, 1)
	go func() {
		domains, err := listDomains(conn)
		done <- answer{domains, err}
	}()
	select {
	case a := <-done:
		return a.domains, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("libvirt at %q does not answer: %w", socket, ctx.Err())
	}
}

func listDomains(conn net.Conn) ([]Domain, error) {
	l := libvirt.NewWithDialer(attached{conn})
	if err := l.ConnectToURI(libvirt.QEMUSystem); err != nil {
		return nil, fmt.Errorf("open libvirt: %w", err)
	}
	defer func() { _ = l.Disconnect() }()
	flags := libvirt.ConnectListDomainsActive | libvirt.ConnectListDomainsInactive
	list, _, err := l.ConnectListAllDomains(1, flags)
	if err != nil {
		return nil, fmt.Errorf("list libvirt domains: %w", err)
	}
	domains := make([]Domain, 0, len(list))
	for _, dom := range list {
		// An inactive domain has the id -1 (libvirt-domain.h).
		domains = append(domains, Domain{Name: dom.Name, Running: dom.ID != -1})
	}
	return domains, nil
}

// attached is a socket.Dialer that hands out the connection it has.
type attached struct{ conn net.Conn }

func (c attached) Dial() (net.Conn, error) { return c.conn, nil }
