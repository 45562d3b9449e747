package upstream

import (
	"strings"
	"testing"
)

func TestFromURL(t *testing.T) {
	for raw, want := range map[string]string{
		"http://proxy.test:3128":            "proxy.test:3128",
		"HTTP://proxy.test":                 "proxy.test:80",
		"https://proxy.test/":               "proxy.test:443",
		"socks5://[2001:db8::1]":            "[2001:db8::1]:1080",
		"socks5h://me:hunter2@proxy.test":   "proxy.test:1080",
		"":                                  "",
		"proxy.test:3128":                   "",
		"ftp://proxy.test":                  "",
		"http://":                           "",
		"http://me:hunter2@proxy.test/a":    "",
		"http://me:hunter2@proxy.test?a":    "",
		"http://me:hunter2@proxy.test:port": "",
		"http://me:hunter2" + strings.Repeat("x", 255) + "@proxy.test": "",
	} {
		p, err := FromURL(raw)
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q: %v", raw, err)
			}
			continue
		}
		if err != nil || p.address() != want || strings.Contains(p.String(), "hunter2") {
			t.Errorf("%q: %v, %v", raw, p, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	type env map[string]string
	for name, c := range map[string]struct {
		env  env
		want string // "" is none, "!" an error
	}{
		"none":                      {env{"NO_PROXY": "*"}, ""},
		"HTTP_PROXY is not read":    {env{"HTTP_PROXY": "http://evil.test", "http_proxy": "http://evil.test"}, ""},
		"HTTPS_PROXY before others": {env{"HTTPS_PROXY": "http://a.test", "https_proxy": "http://b.test", "ALL_PROXY": "socks5://c.test"}, "http://a.test"},
		"small letters":             {env{"https_proxy": "http://b.test", "ALL_PROXY": "socks5://c.test"}, "http://b.test"},
		"ALL_PROXY":                 {env{"ALL_PROXY": "socks5://c.test"}, "socks5://c.test"},
		"all_proxy":                 {env{"all_proxy": "socks5://d.test"}, "socks5://d.test"},
		"without a scheme":          {env{"HTTPS_PROXY": "a.test:3128"}, "http://a.test:3128"},
		"wrong is not no proxy":     {env{"HTTPS_PROXY": "gopher://me:hunter2@a.test"}, "!"},
	} {
		p, err := New("environment", func(k string) string { return c.env[k] })
		switch {
		case c.want == "!":
			if err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || (p == nil) != (c.want == "") || p != nil && p.String() != c.want:
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	t.Setenv("HTTPS_PROXY", "http://evil.test") // of this process
	if p, err := New("", nil); p != nil || err != nil {
		t.Errorf("without a setting: %v, %v", p, err)
	}
	if p, err := New("http://a.test", nil); err != nil || p.String() != "http://a.test" || !p.Covers("example.com", 443) {
		t.Errorf("%v, %v", p, err)
	}
}

func TestNoProxy(t *testing.T) {
	p := mustURL(t, "http://127.0.0.1:1", "intra.test, .sub.test,10.0.0.0/8", "one.test:22")
	for to, want := range map[string]bool{
		"example.com": true, "intra.test": false, "a.intra.test": false, "notintra.test": true, "sub.test": true, "a.sub.test": false,
		"10.1.2.3": false, "11.1.2.3": true, "one.test": true, "127.0.0.1": false, "localhost": false, "2001:db8::1": true,
	} {
		if p.Covers(to, 443) != want {
			t.Errorf("%s: covered is %v", to, !want)
		}
	}
	if p.Covers("one.test", 22) || mustURL(t, "http://127.0.0.1:1", "*").Covers("example.com", 443) || (*Proxy)(nil).Covers("example.com", 443) {
		t.Error("what is excepted is covered")
	}
}
