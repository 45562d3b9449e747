package cli

import (
	"context"
	"net"
	"net/netip"
	"os"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/builder"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/hostca"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/gateway"
)

// buildNet is the network of a builder that runs provisioning commands: that of any
// sandbox. Nobody else is on it.
func buildNet() boot.Net {
	return boot.Net{
		MAC:     "52:54:00:73:62:78",
		Address: netip.MustParsePrefix("100.64.0.2/30"),
		Gateway: netip.MustParseAddr("100.64.0.1"),
		MTU:     gateway.DefaultMTU,
	}
}

// builderUID is whom a builder's QEMU runs as when sbx is root: a number that no
// account has, so that it can touch nobody's files or processes.
const builderUID = 2_000_999_999

// builder starts the machines that build images. Provisioning commands reach what
// the configuration allows the sandbox.
func (a *app) builder(config *configs.Config) (image.BuildFunc, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	policy, _, err := netfilter.Compile(config.Network)
	if err != nil {
		return nil, err
	}
	network := buildNet()
	authorities, err := hostca.Extra(a.getenv)
	if err != nil {
		return nil, err
	}
	b := builder.Builder{
		Self: self, CACerts: authorities, Accel: a.getenv("SBX_ACCEL"), Net: &network,
		Link: func(ctx context.Context, frames net.Conn) (func() error, error) {
			return link(ctx, frames, network, policy)
		},
	}
	if os.Geteuid() == 0 {
		b.UID, b.GID = builderUID, builderUID
	}
	return b.Build, nil
}

// link puts a gateway at the other end of a builder's network.
func link(ctx context.Context, frames net.Conn, network boot.Net, policy *netfilter.Policy) (func() error, error) {
	mac, err := net.ParseMAC(network.MAC)
	if err != nil {
		return nil, err
	}
	g, err := gateway.Start(ctx, gateway.Config{
		Link: frames, MAC: mac, Guest: network.Address, Gateway: network.Gateway, MTU: network.MTU, Policy: policy,
		HostNet: hostNet, Resolver: net.DefaultResolver, Dialer: &net.Dialer{},
	})
	if err != nil {
		return nil, err
	}
	return g.Close, nil
}

// hostNet is what of the network is the host's. Where that cannot be told,
// everything is: then nothing is dialled.
func hostNet() netfilter.HostNet {
	host, err := netfilter.CurrentHostNet()
	if err != nil {
		return netfilter.HostNet{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	}
	return host
}
