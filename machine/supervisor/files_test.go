package supervisor

import (
	"encoding/json"
	"io"
	"testing"

	"github.com/sbx-vm/sbx/sync/virtiofs"
)

// TestLateAnswers: what came too late for one question is not the answer to the next.
func TestLateAnswers(t *testing.T) {
	questions, stdin := io.Pipe()
	defer stdin.Close()
	f := &fileServer{stdin: stdin, answers: make(chan virtiofs.Answer, maxLate), done: make(chan struct{})}
	f.answers <- virtiofs.Answer{Number: 1}
	f.asked = 1
	go func() {
		var c virtiofs.Command
		if json.NewDecoder(questions).Decode(&c) == nil {
			f.answers <- virtiofs.Answer{Number: c.Number, ID: 8}
		}
	}()
	if id, err := f.checkpoint("x"); err != nil || id != 8 {
		t.Errorf("checkpoint %d, %v", id, err)
	}
}
