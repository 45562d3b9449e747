package main

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/gateway"
)

// runSbx is our gateway on file descriptor 3, with the host's resolver and dialer and a
// policy that allows the laboratory's names and nothing else.
func runSbx(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(sbxWord, flag.ContinueOnError)
	mtu := flags.Int("mtu", 0, "of the guest")
	if err := flags.Parse(args); err != nil {
		return err
	}
	allow := func(pattern string) netfilter.Rule {
		return netfilter.Rule{Action: netfilter.Allow, Pattern: pattern, Origin: netfilter.Origin{Source: "user"}}
	}
	policy, _, err := netfilter.Compile(netfilter.Spec{Rules: []netfilter.Rule{
		allow(serverName + ":443,5001-5003/tcp"), allow("**." + namesBelow),
	}})
	if err != nil {
		return err
	}
	file := os.NewFile(3, "link")
	link, err := net.FileConn(file)
	if err != nil {
		return err
	}
	file.Close()
	mac, err := net.ParseMAC(guestMAC)
	if err != nil {
		return err
	}
	g, err := gateway.Start(ctx, gateway.Config{
		Link: link, MAC: mac, Guest: netip.MustParsePrefix("100.64.0.2/30"), Gateway: netip.MustParseAddr("100.64.0.1"), MTU: *mtu,
		Policy: policy, Resolver: net.DefaultResolver, Dialer: &net.Dialer{},
		// The server's address stands on the namespace's loopback; the floor knows no own addresses here.
		HostNet: func() netfilter.HostNet { return netfilter.HostNet{} },
	})
	if err != nil {
		return err
	}
	<-g.Done()
	return nil
}
