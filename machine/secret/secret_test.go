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
	"testing/synctest"

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
	got, info, err := s.Get(t.Context(), "KEY")
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
	if _, _, err := s.Get(t.Context(), "KEY"); !errors.Is(err, ErrNone) {
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
	if got, _, err := s.Get(t.Context(), "KEY"); err != nil || got != value {
		t.Errorf("%q, %v", got, err)
	}
	if _, _, err := Open(t.TempDir(), false).Get(t.Context(), "KEY"); !errors.Is(err, ErrNone) {
		t.Errorf("another world sees it: %v", err)
	}
	keyring.MockInitWithError(errors.New("locked"))
	if _, _, err := s.Get(t.Context(), "KEY"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a locked keyring: %v", err)
	}
	if info, err := s.Set(t.Context(), "KEY", value, nil); err != nil || info.Where != InFile {
		t.Errorf("without a keyring: %+v, %v", info, err)
	}
}

// TestKeyringThatComesAndGoes: of two values that were kept in two places only the last is ever used, and rm leaves
// neither, or says so.
func TestKeyringThatComesAndGoes(t *testing.T) {
	const older = "hunter1-secret"
	dir := t.TempDir()
	s := Open(dir, true)
	inKeyring := func() string {
		value, err := keyring.Get(service, "KEY")
		if err != nil && !errors.Is(err, keyring.ErrNotFound) {
			t.Fatal(err)
		}
		return value
	}
	inFile := func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "secret-values.json"))
		return err == nil && strings.Contains(string(data), "hunter")
	}
	set := func(v string, want Info) {
		t.Helper()
		info, err := s.Set(t.Context(), "KEY", v, nil)
		if err != nil || info.Where != want.Where || info.Stale != want.Stale {
			t.Fatalf("%+v, %v", info, err)
		}
		if got, _, err := s.Get(t.Context(), "KEY"); err != nil || got != v {
			t.Errorf("%q, %v", got, err)
		}
	}
	away := func() { keyring.MockInitWithError(errors.New("locked")) }
	back := func() { // with what it had
		keyring.MockInit()
		if err := keyring.Set(service, "KEY", older); err != nil {
			t.Fatal(err)
		}
	}
	keyring.MockInit()
	set(older, Info{Where: InKeyring})
	away()
	set(value, Info{Where: InFile, Stale: true})
	set(value, Info{Where: InFile, Stale: true}) // is not forgotten by setting it again
	back()
	if got, _, err := s.Get(t.Context(), "KEY"); err != nil || got != value {
		t.Errorf("the older value is used: %q, %v", got, err)
	}
	set(value, Info{Where: InKeyring})
	if inFile() {
		t.Error("the file still has it")
	}

	away()
	set(value, Info{Where: InFile, Stale: true})
	if err := s.Remove(t.Context(), "KEY"); err == nil || !strings.Contains(err.Error(), "may still have it: locked") {
		t.Errorf("rm without the keyring: %v", err)
	}
	if inFile() {
		t.Error("rm left it in the file")
	}
	back()
	if got, _, err := s.Get(t.Context(), "KEY"); err == nil {
		t.Errorf("after rm %q is used", got)
	}
	if err := s.Remove(t.Context(), "KEY"); err != nil || inKeyring() != "" {
		t.Errorf("rm again: %v, %q", err, inKeyring())
	}
	if err := s.Remove(t.Context(), "KEY"); !errors.Is(err, ErrNone) {
		t.Errorf("rm of nothing: %v", err)
	}
	set(older, Info{Where: InKeyring})
	away()
	if err := s.Remove(t.Context(), "KEY"); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("rm of the keyring's without it: %v", err)
	}
	back()
	if got, _, err := s.Get(t.Context(), "KEY"); err == nil {
		t.Errorf("after rm %q is used", got)
	}
	if err := s.Remove(t.Context(), "KEY"); err != nil || inKeyring() != "" {
		t.Errorf("rm of it again: %v, %q", err, inKeyring())
	}
	back() // what no list knows
	if err := s.Remove(t.Context(), "KEY"); err != nil || inKeyring() != "" {
		t.Errorf("rm of what is in the keyring alone: %v, %q", err, inKeyring())
	}
	away() // no keyring, now and before: nothing to say
	set(value, Info{Where: InFile})
	if err := s.Remove(t.Context(), "KEY"); err != nil || inFile() {
		t.Errorf("rm of the file's: %v", err)
	}
}

func TestKeyringThatIsSilent(t *testing.T) {
	s := Open(t.TempDir(), true)
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan error)
	defer close(never)
	cancel()
	if err := s.ask(ctx, func() error { return <-never }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		late := make(chan error)
		if err := s.ask(t.Context(), func() error { return <-late }); !errors.Is(err, errSilent) {
			t.Errorf("silent: %v", err)
		}
		close(late)
	})
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
