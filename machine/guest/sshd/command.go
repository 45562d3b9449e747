package sshd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Request names beyond SSH's own. The payload of syncTime is the host's time in
// nanoseconds since 1970, eight bytes, big endian.
const (
	RequestShutdown = "shutdown@sbx"
	RequestSyncTime = "sync-time@sbx"
)

// Subsystems: the agent itself, as the sandbox's user. SubsystemMirror speaks what
// sync/mirror/agent does.
const (
	SubsystemFiles  = "sftp"
	SubsystemMirror = "mirror"
	SubsystemNudge  = "nudge" // reads what package nudge raises events for
)

// Command is what an exec request asks for: the words are run as they are, no
// shell reads them. On the wire it is JSON after one NUL byte; a payload without
// that byte is a command line for the login shell, as `ssh host 'command line'`
// sends it.
type Command struct {
	Argv []string          `json:"argv"`
	Dir  string            `json:"dir,omitempty"`  // default: the workspace
	User string            `json:"user,omitempty"` // default: the sandbox's user
	Env  map[string]string `json:"env,omitempty"`

	login bool // Argv[0] is to see itself as a login shell
}

// maxExec bounds an exec request: Linux takes 128 KiB for one word and 2 MiB for
// all of them.
const maxExec = 2 << 20

// Encode is the payload of an exec request.
func (c Command) Encode() (string, error) {
	data, err := json.Marshal(c)
	return "\x00" + string(data), err
}

func decode(payload string) (Command, error) {
	if len(payload) > maxExec {
		return Command{}, fmt.Errorf("command of %d bytes, more than %d", len(payload), maxExec)
	}
	if len(payload) == 0 || payload[0] != 0 {
		return Command{Argv: []string{"/bin/bash", "-c", payload}}, nil
	}
	var c Command
	if err := json.Unmarshal([]byte(payload[1:]), &c); err != nil {
		return c, err
	}
	if len(c.Argv) == 0 {
		return c, errors.New("command without words")
	}
	return c, nil
}

func loginShell() Command { return Command{Argv: []string{"/bin/bash"}, login: true} }

// environ is a command's environment, later names over earlier ones: defaults of
// the user, the sandbox's, what the client sent, what the command names.
func environ(layers ...map[string]string) []string {
	merged := map[string]string{}
	for _, layer := range layers {
		for k, v := range layer {
			merged[k] = v
		}
	}
	var out []string
	for k, v := range merged {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// Statuses of a command that did not start, as a shell gives them.
const (
	statusCannotRun = 126
	statusNotFound  = 127
)

// errNotFound is a program that is not there, unlike a folder or a user that is not.
var errNotFound = errors.New("command not found")

func startStatus(err error) int {
	var path *os.PathError
	missing := errors.As(err, &path) && path.Op == "fork/exec" && errors.Is(err, os.ErrNotExist)
	if missing || errors.Is(err, errNotFound) {
		return statusNotFound
	}
	return statusCannotRun
}
