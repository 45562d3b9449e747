package cli

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/sbx-vm/sbx/configs"
	"github.com/sbx-vm/sbx/image"
	"github.com/sbx-vm/sbx/machine/builder"
	"github.com/sbx-vm/sbx/machine/guest/boot"
	"github.com/sbx-vm/sbx/machine/hostca"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/gateway"
	"github.com/sbx-vm/sbx/netfilter/intercept"
	"github.com/sbx-vm/sbx/netfilter/upstream"
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
	way, authorities, err := a.buildWay(config.Network)
	if err != nil {
		return nil, err
	}
	network := buildNet()
	b := builder.Builder{
		Self: self, CACerts: authorities, Accel: a.getenv("SBX_ACCEL"), Net: &network,
		Link: func(ctx context.Context, frames net.Conn) (func() error, error) {
			return link(ctx, frames, network, way)
		},
	}
	if os.Geteuid() == 0 {
		b.UID, b.GID = builderUID, builderUID
	}
	return b.Build, nil
}

// buildWay is what the network of a build has in common with the sandbox's: the rules, the proxy, an authority for
// what is intercepted. There are no secrets, and nobody is asked. The second result is what the build trusts.
func (a *app) buildWay(spec netfilter.Spec) (gateway.Config, string, error) {
	spec.Ask, spec.Secrets = 0, nil
	policy, _, err := netfilter.Compile(spec)
	if err != nil {
		return gateway.Config{}, "", err
	}
	proxy, err := upstream.New(spec.Proxy, a.getenv)
	if err != nil {
		return gateway.Config{}, "", err
	}
	trusted, err := hostca.Extra(a.getenv)
	if err != nil {
		return gateway.Config{}, "", err
	}
	cert, key, err := intercept.NewAuthority("build", time.Now())
	if err != nil {
		return gateway.Config{}, "", err
	}
	authority, err := intercept.LoadAuthority(cert, key)
	return gateway.Config{Policy: policy, Proxy: proxy, Authority: authority}, trusted + string(cert), err
}

// link puts a gateway at the other end of a builder's network.
func link(ctx context.Context, frames net.Conn, network boot.Net, way gateway.Config) (func() error, error) {
	mac, err := net.ParseMAC(network.MAC)
	if err != nil {
		return nil, err
	}
	way.Link, way.MAC, way.Guest, way.Gateway, way.MTU = frames, mac, network.Address, network.Gateway, network.MTU
	way.HostNet, way.Resolver, way.Dialer = hostNet, net.DefaultResolver, &net.Dialer{}
	g, err := gateway.Start(ctx, way)
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
