package secret

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/zalando/go-keyring"

	"github.com/sbx-vm/sbx/machine"
)

const value = "hunter2-secret"

func noEnv(string) string { return "" }

func TestFileStore(t *testing.T) {
	dir := t.TempDir()
	s := Open(dir, false)
	if _, err := s.Set(t.Context(), "KEY", value, []string{"api.test"}); err != nil {
		t.Fatal(err)
	}
	got, info, err := s.Get("KEY")
	if err != nil || got != value || info.Where != InFile || info.Set.IsZero() {
		t.Errorf("%q, %+v, %v", got, info, err)
	}
	for _, name := range []string{"secrets.json", "secret-values.json"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st.Mode(), err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "secrets.json")); strings.Contains(string(data), "hunter2") {
		t.Error("the list holds the value")
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || strings.Contains(fmt.Sprint(list), "hunter2") {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.Remove(t.Context(), "KEY"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get("KEY"); !errors.Is(err, ErrNone) {
		t.Errorf("after rm: %v", err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "secret-values.json")); strings.Contains(string(data), "hunter2") {
		t.Error("the value is still there")
	}
	if err := s.Remove(t.Context(), "KEY"); !errors.Is(err, ErrNone) {
		t.Errorf("rm of nothing: %v", err)
	}
}

func TestKeyringIsUsedWhereThereIsOne(t *testing.T) {
	keyring.MockInit()
	dir := t.TempDir()
	s := Open(dir, true)
	if info, err := s.Set(t.Context(), "KEY", value, nil); err != nil || info.Where != InKeyring {
		t.Fatalf("%+v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "secret-values.json")); err == nil {
		t.Error("the value is in a file as well")
	}
	if got, _, err := s.Get("KEY"); err != nil || got != value {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := Open(t.TempDir(), false).Get("KEY"); !errors.Is(err, ErrNone) {
		t.Errorf("another world sees it: %v", err)
	}
	keyring.MockInitWithError(errors.New("locked"))
	if _, _, err := s.Get("KEY"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a locked keyring: %v", err)
	}
	if info, err := s.Set(t.Context(), "KEY", value, nil); err != nil || info.Where != InFile {
		t.Errorf("without a keyring: %+v, %v", info, err)
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	s := Open(t.TempDir(), false)
	for name, v := range map[string]string{"KEY": "", "1KEY": "x", "A-B": "x", "LONG": strings.Repeat("x", maxValue+1), "LINES": "a\nb", "NUL": "a\x00"} {
		if _, err := s.Set(t.Context(), name, v, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestBrokenFilesLoseNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret-values.json")
	if err := os.WriteFile(path, []byte(`{"KEY": "hunter2`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, false).Set(t.Context(), "OTHER", "x", nil)
	if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != `{"KEY": "hunter2` {
		t.Errorf("the file is %q now", data)
	}
}

func TestManyAtOnce(t *testing.T) {
	s := Open(t.TempDir(), false)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := s.Set(context.Background(), fmt.Sprintf("KEY_%d", i), value, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if list, err := s.List(); err != nil || len(list) != 20 {
		t.Errorf("%d secrets, %v", len(list), err)
	}
}

func TestResolve(t *testing.T) {
	s := Open(t.TempDir(), false)
	for name, hosts := range map[string][]string{"STORED": nil, "BOUND": {"api.test"}, "BOTH": nil} {
		if _, err := s.Set(t.Context(), name, "stored", hosts); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"BOTH": "env", "OTHER_NAME": "renamed"}
	values, err := Resolve(t.Context(), s, []Wanted{
		{"STORED", []string{"a.test"}}, {"BOUND", []string{"API.test"}}, {"BOTH", nil}, {"RENAMED", nil}, {"COMMAND", nil}, {"NONE", nil},
	}, []machine.SecretSource{{Name: "RENAMED", Env: "OTHER_NAME"}, {Name: "COMMAND", Command: []string{"printf", "%s\n", "from command"}}},
		func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Value{
		"STORED": {"stored", "file"}, "BOUND": {"stored", "file"}, "BOTH": {"env", "environment"},
		"RENAMED": {"renamed", "environment"}, "COMMAND": {"from command", "command"},
	}
	if fmt.Sprint(values) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", values, want)
	}
	_, err = Resolve(t.Context(), s, []Wanted{{"BOUND", []string{"evil.test"}}}, nil, noEnv)
	if err == nil || !strings.Contains(err.Error(), "not for evil.test") {
		t.Errorf("another host: %v", err)
	}
	_, err = Resolve(t.Context(), s, []Wanted{{"X", nil}, {"Y", nil}}, []machine.SecretSource{
		{Name: "X", Command: []string{"sh", "-c", "echo hunter2 >&2; echo hunter2; exit 3"}}, {Name: "Y", Command: []string{"sh", "-c", "head -c 100000 /dev/zero"}},
	}, noEnv)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "secret X") || !strings.Contains(err.Error(), "secret Y") {
		t.Errorf("failing commands: %v", err)
	}
}
