package initd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/sbx-vm/sbx/machine/guest/boot"
)

// setUpNetwork gives the one interface what the host decided. There is no DHCP,
// no IPv6 and nothing to wait for.
func setUpNetwork(c boot.Config) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if c.Net == nil {
		return nil
	}
	link, err := findLink(c.Net.MAC)
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := netlink.LinkSetMTU(link, c.Net.MTU); err != nil {
		return fmt.Errorf("%s: MTU %d: %w", name, c.Net.MTU, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: c.Net.Address.Addr().AsSlice(), Mask: net.CIDRMask(c.Net.Address.Bits(), 32)}}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("%s: address %s: %w", name, c.Net.Address, err)
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: c.Net.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("%s: route by %s: %w", name, c.Net.Gateway, err)
	}
	return nil
}

// nameServer makes the gateway the only one that the guest asks.
func nameServer(c boot.Config) error {
	if c.Net == nil {
		return nil
	}
	// A file, not a link into a resolver that is not there.
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile("/etc/resolv.conf", []byte("nameserver "+c.Net.Gateway.String()+"\noptions edns0\n"), 0o644)
}

func findLink(mac string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if strings.EqualFold(l.Attrs().HardwareAddr.String(), mac) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no interface with the address %s", mac)
}
