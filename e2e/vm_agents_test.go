package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/websocket"

	"github.com/sbx-vm/sbx/configs"
)

// reply is what the stand-ins of the agents' services say to every prompt.
const reply = "Hello from the stand-in"

// service is the stand-in of an agent's API: it answers who shows the key, and notes all that it was sent.
type service struct {
	header, key string   // where the key stands, and what stands there
	bound       []string // hosts that get it
	answer      func(w http.ResponseWriter, r *http.Request, body map[string]any) bool

	mu     sync.Mutex
	asked  []string // "METHOD HOST/PATH", "keyed" before it where the key was shown
	faults []string // a key at a host that should not have it, or another one at a host that should
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return
	}
	got := r.Header.Get(s.header)
	line := fmt.Sprintf("%s %s%s", r.Method, r.Host, r.URL.Path)
	s.mu.Lock()
	if got == s.key {
		line = "keyed " + line
	}
	if bound := slices.Contains(s.bound, r.Host); bound && got != s.key && got != "" || !bound && got == s.key {
		s.faults = append(s.faults, fmt.Sprintf("%q for %s", got, line))
	}
	s.asked = append(s.asked, line)
	s.mu.Unlock()
	var body map[string]any
	_ = json.Unmarshal(raw, &body)
	if got != s.key || !s.answer(w, r, body) {
		http.NotFound(w, r)
	}
}

// events writes server-sent events; those with a type say it in their event field as well.
func events(w http.ResponseWriter, list ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, data := range list {
		var typed struct{ Type string }
		if err := json.Unmarshal([]byte(data), &typed); err == nil && typed.Type != "" {
			fmt.Fprintf(w, "event: %s\n", typed.Type)
		}
		fmt.Fprintf(w, "data: %s\n\n", data)
	}
}

// anthropic is POST /v1/messages.
func anthropic(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
	if r.URL.Path != "/v1/messages" {
		return false
	}
	message := fmt.Sprintf(`{"id":"msg_1","type":"message","role":"assistant","model":%q,"content":[%%s],`+
		`"stop_reason":%%s,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}`, body["model"])
	if body["stream"] != true {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, message, `{"type":"text","text":"`+reply+`"}`, `"end_turn"`)
		return true
	}
	events(w,
		`{"type":"message_start","message":`+fmt.Sprintf(message, "", "null")+`}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"`+reply+`"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":5}}`,
		`{"type":"message_stop"}`)
	return true
}

// google is POST /v1beta/models/MODEL:generateContent, and :streamGenerateContent. The client first asks how
// complex the prompt is, in JSON.
func google(w http.ResponseWriter, r *http.Request, body map[string]any) bool {
	text := reply
	if config, ok := body["generationConfig"].(map[string]any); ok && config["responseMimeType"] == "application/json" {
		text = `{"complexity_reasoning":"a greeting","complexity_score":1}`
	}
	answer := fmt.Sprintf(`{"candidates":[{"content":{"parts":[{"text":%q}],"role":"model"},"finishReason":"STOP","index":0}],`+
		`"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":5,"totalTokenCount":6}}`, text)
	switch {
	case strings.HasSuffix(r.URL.Path, ":streamGenerateContent"):
		events(w, answer)
	case strings.HasSuffix(r.URL.Path, ":generateContent"):
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, answer)
	default:
		return false
	}
	return true
}

// openai is /v1/responses, the same events on a WebSocket and after a POST.
func openai(w http.ResponseWriter, r *http.Request, _ map[string]any) bool {
	if r.URL.Path != "/v1/responses" {
		return false
	}
	answer := []string{
		`{"type":"response.created","response":{"id":"resp_1"}}`,
		`{"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg_1","role":"assistant","status":"completed",` +
			`"content":[{"type":"output_text","text":"` + reply + `","annotations":[]}]}}`,
		`{"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":1,"input_tokens_details":null,"output_tokens":5,` +
			`"output_tokens_details":null,"total_tokens":6}}}`,
	}
	if r.Method == http.MethodPost {
		events(w, answer...)
		return true
	}
	websocket.Server{Handler: func(c *websocket.Conn) {
		var create string
		for websocket.Message.Receive(c, &create) == nil {
			for _, event := range answer {
				if websocket.Message.Send(c, event) != nil {
					return
				}
			}
		}
	}}.ServeHTTP(w, r)
	return true
}

// TestVMAgents: an agent's own program, installed and started by `sbx run`, has a prompt answered with a key
// that it does not have.
func TestVMAgents(t *testing.T) {
	for _, test := range []struct {
		agent, variable, header, prefix string
		answer                          func(http.ResponseWriter, *http.Request, map[string]any) bool
		prompt                          []string
		asked                           string
	}{
		{"claude", "ANTHROPIC_API_KEY", "x-api-key", "", anthropic, []string{"-p", "say hi"}, "keyed POST api.anthropic.com/v1/messages"},
		{"gemini", "GEMINI_API_KEY", "x-goog-api-key", "", google, []string{"-p", "say hi"},
			"keyed POST generativelanguage.googleapis.com/v1beta/models/"},
		{"codex", "OPENAI_API_KEY", "Authorization", "Bearer ", openai, []string{"exec", "--skip-git-repo-check", "say hi"},
			"keyed GET api.openai.com/v1/responses"},
	} {
		t.Run(test.agent, func(t *testing.T) {
			w, value := newWorld(t, test.agent), "sk-real-"+rand.Text()
			s := &service{header: test.header, key: test.prefix + value, answer: test.answer}
			w.agentHosts(t, test.agent, test.variable, s)
			if r := w.runIn(value, "secret", "set", test.variable, "--stdin"); r.status != 0 {
				t.Fatalf("secret set: %d %s", r.status, r.err)
			}
			t.Cleanup(func() { w.run("secret", "rm", test.variable) }) // this user's keyring may hold it
			version := w.run("run", test.agent, "--", "--version")
			if version.status != 0 || !strings.Contains(version.out, ".") {
				t.Fatalf("--version: %d %q %s", version.status, version.out, tail(version.err))
			}
			r := w.run(append([]string{"run", test.agent, "--"}, test.prompt...)...)
			t.Logf("%s: first start %v, prompt %v; asked:\n%s", strings.TrimSpace(version.out), version.took, r.took, strings.Join(s.asked, "\n"))
			if r.status != 0 || !strings.Contains(r.out, reply) {
				t.Errorf("the prompt: %d\n%s%s", r.status, tail(r.out), tail(r.err))
			}
			if !strings.Contains(strings.Join(s.asked, "\n"), test.asked) || len(s.faults) > 0 {
				t.Errorf("no %q, or keys in the wrong place: %q", test.asked, s.faults)
			}
			if got := w.sh(t, "printenv "+test.variable); !strings.Contains(got, "placeholder") {
				t.Errorf("the guest has %q", got)
			}
			const find = "grep -rlFf /dev/stdin /home /root /etc /run /tmp /var/tmp /var/log /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; true"
			if r := w.runIn(value, "exec", "-u", "root", "--", "sh", "-c", find); r.status != 0 || r.out != "" {
				t.Errorf("the value is in the guest: %d %s%s", r.status, r.out, r.err)
			}
		})
	}
}

// agentHosts leads all hosts of an agent to its stand-in, which learns where the key belongs.
func (w *world) agentHosts(t *testing.T, name, variable string, s *service) {
	t.Helper()
	agent, err := configs.FindAgent(name)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(agent.Secrets, func(key configs.AgentSecret) bool { return key.Name == variable })
	s.bound = agent.Secrets[i].Hosts
	to := w.standIns(t).serve(t, s, agent.Hosts...)
	hosts := make([]string, len(agent.Hosts))
	for i, host := range agent.Hosts {
		hosts[i] = host + ":443 " + to
	}
	w.userConfig(t, hosts, "")
}
