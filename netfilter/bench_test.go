package netfilter

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkDecide measures one decision: under a policy as people have it, and under the largest one.
func BenchmarkDecide(b *testing.B) {
	typical := Spec{Presets: []string{"npm", "pypi", "github-clone", "debian"}, Ask: 30 * time.Second, Rules: []Rule{
		rule("allow api.anthropic.com"), rule("allow **.example.org:443,8443"), rule("allow *.example.net"), rule("user: deny gist.github.com"),
		rule("user: deny **.tracker.example"), rule("allow git.example.org:22/tcp"), scoped("allow api.example.com GET /v1/**"),
	}, Secrets: []Secret{{Name: "KEY", Hosts: []string{"api.anthropic.com"}}}}
	large, same := typical, typical
	for i := range 950 {
		large.Rules = append(large.Rules, rule(fmt.Sprintf("allow **.n%d.example.com:443", i)))
		same.Rules = append(same.Rules, rule(fmt.Sprintf("allow a.example.com:%d", 1+i)))
	}
	for _, policy := range []struct {
		name string
		spec Spec
	}{{"typical", typical}, {"1024", large}, {"1024-one-name", same}} {
		p, _, err := Compile(policy.spec)
		if err != nil {
			b.Fatal(err)
		}
		for _, req := range []Request{
			{Name: "api.anthropic.com", Port: 443}, {Name: "a.b.c.example.org"}, {Name: "no.such.name.test"}, {Name: "a.example.com", Port: 950},
			{Name: "github.com", Port: 443, Method: "POST", Path: "/owner/project.git/git-upload-pack"},
		} {
			b.Run(fmt.Sprintf("%s/%s:%d%s", policy.name, req.Name, req.Port, req.Method), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.Decide(req)
				}
			})
		}
	}
}
