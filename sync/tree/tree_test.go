package tree

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func file(content string) Entry {
	return Entry{Kind: File, Size: int64(len(content)), Hash: sha256.Sum256([]byte(content))}
}

func of(kv ...string) Tree {
	t := Tree{}
	for i := 0; i < len(kv); i += 2 {
		for d := path.Dir(kv[i]); d != "."; d = path.Dir(d) {
			t[d] = Entry{Kind: Folder}
		}
		switch kv[i+1] {
		case "/":
			t[kv[i]] = Entry{Kind: Folder}
		case "?":
			t[kv[i]] = Entry{Kind: Unknown, Target: "a socket"}
		default:
			t[kv[i]] = file(kv[i+1])
		}
	}
	return t
}

// world carries plans out on data, as strictly as mirror does on files.
type world struct{ base, host, guest Tree }

func (w *world) clone() world {
	return world{maps.Clone(w.base), maps.Clone(w.host), maps.Clone(w.guest)}
}

func (w *world) apply(t interface{ Fatalf(string, ...any) }, p Plan) {
	for _, path := range p.Settled {
		set(w.base, path, w.host[path])
	}
	for _, a := range p.Actions {
		mine, theirs := w.host, w.guest
		if a.Side == Guest {
			mine, theirs = theirs, mine
		}
		if have := mine[a.Path]; a.Have.Kind != have.Kind && a.Op != Put && a.Op != Make || a.Op == Put && !Same(have, a.Have) {
			t.Fatalf("%v: %v stands there", a, have)
		}
		if dir := path.Dir(a.Path); dir != "." && mine[dir].Kind != Folder {
			t.Fatalf("%v: no folder above", a)
		}
		switch a.Op {
		case Remove:
			delete(mine, a.Path)
			delete(w.base, a.Path)
		case RemoveFolder:
			for q := range mine {
				if q != a.Path && Within(q, a.Path) {
					t.Fatalf("%v: %q is in it", a, q)
				}
			}
			delete(mine, a.Path)
			delete(w.base, a.Path)
		case Rename:
			for q, e := range maps.Clone(mine) {
				if Within(q, a.Path) {
					delete(mine, q)
					mine[a.To+q[len(a.Path):]] = e
				}
			}
		case Make, Put:
			if mine[a.Path].Kind == Folder {
				t.Fatalf("%v: a folder stands there", a)
			}
			if !Same(theirs[a.Path], a.Want) {
				t.Fatalf("%v: the source is %v", a, theirs[a.Path])
			}
			mine[a.Path], w.base[a.Path] = a.Want, a.Want
		}
	}
}

func set(t Tree, p string, e Entry) {
	if e.Kind == None {
		delete(t, p)
		return
	}
	t[p] = e
}

// converge runs plans until there is nothing to do.
func (w *world) converge(t interface{ Fatalf(string, ...any) }, o Options) {
	for range 8 {
		p := Reconcile(w.base, w.host, w.guest, o)
		if len(p.Actions) == 0 {
			w.apply(t, p)
			return
		}
		w.apply(t, p)
	}
	t.Fatalf("does not converge: %v", Reconcile(w.base, w.host, w.guest, o))
}

func TestW75_Matrix(t *testing.T) {
	for _, c := range []struct{ name, base, host, guest, wantHost, kept string }{
		{"create, create", "", "H", "G", "H", "G"},
		{"create, create the same", "", "H", "H", "H", ""},
		{"modify, modify", "B", "H", "G", "H", "G"},
		{"modify, delete", "B", "H", "", "H", ""},
		{"delete, modify", "B", "", "G", "G", ""},
		{"delete, delete", "B", "", "", "", ""},
		{"create, nothing", "", "H", "", "H", ""},
		{"nothing, create", "", "", "G", "G", ""},
		{"modify, nothing", "B", "H", "B", "H", ""},
		{"nothing, modify", "B", "B", "G", "G", ""},
		{"delete, nothing", "B", "", "B", "", ""},
		{"nothing, delete", "B", "B", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			one := func(s string) Tree {
				if s == "" {
					return of("x", "x")
				}
				return of("x", "x", "d/f", s)
			}
			w := world{one(c.base), one(c.host), one(c.guest)}
			w.converge(t, Options{})
			if want := one(c.wantHost)["d/f"]; !Same(w.host["d/f"], want) || !Same(w.guest["d/f"], want) {
				t.Errorf("host %v, guest %v", w.host["d/f"], w.guest["d/f"])
			}
			kept := 0
			for p, e := range w.host {
				if strings.Contains(p, ConflictMark) && Same(e, file(c.kept)) && Same(w.guest[p], e) {
					kept++
				}
			}
			if want := len(c.kept); kept != want {
				t.Errorf("%d conflicts kept, want %d: %v", kept, want, w.host.Paths())
			}
		})
	}
}

func TestHalts(t *testing.T) {
	many := Tree{"a": {Kind: Folder}}
	for i := range 100 {
		many[fmt.Sprintf("a/%d", i)] = file("x")
	}
	many[".git"], many[".git/HEAD"] = Entry{Kind: Folder}, file("ref")
	without := func(n int) Tree {
		t := maps.Clone(many)
		for i := range n {
			delete(t, fmt.Sprintf("a/%d", i))
		}
		return t
	}
	noGit := maps.Clone(many)
	drop(noGit, ".git")
	precious := func(p string) bool { return p == ".git" }
	for name, c := range map[string]struct {
		base, host, guest Tree
		o                 Options
		want              []Halt
	}{
		"W70_emptied":            {many, many, Tree{}, Options{}, []Halt{{Side: Guest, Reason: Emptied}}},
		"W73_host emptied":       {many, Tree{}, many, Options{}, []Halt{{Side: Host, Reason: Emptied}}},
		"W72_no state":           {nil, many, Tree{}, Options{}, nil},
		"W77_git":                {many, many, noGit, Options{Precious: precious}, []Halt{{Side: Guest, Reason: ProtectedDeleted, Path: ".git"}}},
		"few":                    {many, many, without(20), Options{}, nil},
		"many":                   {many, many, without(40), Options{}, []Halt{{Side: Guest, Reason: DeletedMany, Count: 40, Of: 101}}},
		"many, by the host":      {many, without(40), many, Options{}, []Halt{{Side: Host, Reason: DeletedMany, Count: 40, Of: 101}}},
		"W83_many, under a rule": {many, many, without(90), Options{MaxDeletes: -1}, nil},
		"many, confirmed":        {many, many, without(90), Options{Confirmed: true}, nil},
		"bit by bit":             {without(20), without(20), without(30), Options{Deleted: 20}, []Halt{{Side: Guest, Reason: DeletedMany, Count: 30, Of: 101}}},
	} {
		if got := Reconcile(c.base, c.host, c.guest, c.o).Halts; !cmp.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestW17_W18_NamesThatTheHostTakesForOne(t *testing.T) {
	fold := func(p string) string { return strings.ToLower(norm.NFC.String(p)) }
	for _, names := range [][2]string{{"Foo", "foo"}, {"\u00e9", "e\u0301"}} {
		guest := of(names[0], "1", names[1], "2")
		w := world{Tree{}, Tree{}, maps.Clone(guest)}
		w.converge(t, Options{Fold: fold})
		p := Reconcile(w.base, w.host, w.guest, Options{Fold: fold})
		if len(w.host) != 1 || len(p.Held) != 1 || !cmp.Equal(w.guest, guest) {
			t.Errorf("%q: host %v, held %v, guest %v", names, w.host.Paths(), p.Held, w.guest.Paths())
		}
		all := world{Tree{}, Tree{}, guest}
		all.converge(t, Options{})
		if len(all.host) != 2 {
			t.Errorf("%q: a host that keeps them apart has %v", names, all.host.Paths())
		}
	}
}

func TestW19_CaseOnlyRename(t *testing.T) {
	w := world{of("a/x", "1"), of("a/x", "1"), of("A/x", "1")}
	first := Reconcile(w.base, w.host, w.guest, Options{Fold: strings.ToLower})
	if len(first.Actions) != 1 || first.Actions[0].Op != Rename || first.Actions[0].To != "A" {
		t.Fatalf("%v", first.Actions)
	}
	w.converge(t, Options{Fold: strings.ToLower})
	if !cmp.Equal(w.host.Paths(), []string{"A", "A/x"}) {
		t.Errorf("%v", w.host.Paths())
	}
}

func TestUnknownIsLeftAlone(t *testing.T) {
	w := world{of("d/a", "1", "d/b", "1"), of("d/a", "1", "d/b", "1"), of("d", "?", "e", "1")}
	p := Reconcile(w.base, w.host, w.guest, Options{})
	if len(p.Actions) != 1 || p.Actions[0].Path != "e" || len(p.Held) != 1 {
		t.Errorf("%v, held %v", p.Actions, p.Held)
	}
}

func TestHeldStaysWithItsFolder(t *testing.T) {
	both := of("d/keep", "1", "d/go", "1", "x", "1")
	hold := func(p string, _, _ Entry) string { return map[string]string{"d/keep": "protected"}[p] }
	w := world{maps.Clone(both), maps.Clone(both), of("x", "1")}
	w.converge(t, Options{Hold: hold})
	if !cmp.Equal(w.host.Paths(), []string{"d", "d/keep", "x"}) || len(w.guest) != 1 {
		t.Errorf("host %v, guest %v", w.host.Paths(), w.guest.Paths())
	}
}

func genTree(t *rapid.T, from Tree, label string) Tree {
	out := maps.Clone(from)
	names := []string{"a", "b", "a/a", "a/b", "b/a", "a/a/a"}
	for range rapid.IntRange(0, 6).Draw(t, label) {
		p := rapid.SampledFrom(names).Draw(t, label+" path")
		drop(out, p)
		switch rapid.IntRange(0, 3).Draw(t, label+" what") {
		case 0:
			continue
		case 1:
			fill(out, p)
			out[p] = Entry{Kind: Folder}
		default:
			fill(out, p)
			e := file(rapid.SampledFrom([]string{"1", "2", "3", label}).Draw(t, label+" content"))
			e.Exec = rapid.Bool().Draw(t, label+" exec")
			out[p] = e
		}
	}
	return out
}

func drop(t Tree, p string) {
	for _, q := range t.Below([]string{p}) {
		delete(t, q)
	}
}

func fill(t Tree, p string) {
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if t[d].Kind != Folder {
			t[d] = Entry{Kind: Folder}
		}
	}
}

func TestW74_NothingOfTheHostIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{base: genTree(t, Tree{}, "base")}
		if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
			w.base = Tree{}
		}
		w.host, w.guest = genTree(t, w.base, "host"), genTree(t, w.base, "guest")
		before := w.clone()
		o := Options{MaxDeletes: -1, Confirmed: true}
		w.converge(t, o)
		if !sameTrees(w.host, w.guest) || !sameTrees(w.host, w.base) {
			t.Fatalf("ends apart: host %v, guest %v, base %v", w.host.Paths(), w.guest.Paths(), w.base.Paths())
		}
		for _, side := range []Tree{before.host, before.guest} {
			for p, e := range side {
				if e.Kind == File && !Same(e, before.base[p]) && !slices.ContainsFunc(slices.Collect(maps.Values(w.host)), func(x Entry) bool { return x.Hash == e.Hash }) {
					t.Fatalf("%q is lost: before %v", p, before)
				}
			}
		}
		for p, e := range before.host {
			if e.Kind == File && !Same(e, before.base[p]) && w.host[p].Hash != e.Hash {
				t.Fatalf("the host's %q moved", p)
			}
		}
		if again := Reconcile(w.base, w.host, w.guest, o); len(again.Actions)+len(again.Settled) > 0 {
			t.Fatalf("not idempotent: %v", again)
		}
	})
}

func TestPropertySymmetricWithoutConflicts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(t, Tree{}, "base")
		host, guest := genTree(t, base, "host"), genTree(t, base, "guest")
		o := Options{Confirmed: true}
		there, back := Reconcile(base, host, guest, o), Reconcile(base, guest, host, o)
		if len(there.Conflicts) != len(back.Conflicts) {
			t.Fatalf("conflicts %v and %v", there.Conflicts, back.Conflicts)
		}
		if len(there.Conflicts) > 0 || modesDiffer(host, guest) {
			return
		}
		for i := range back.Actions {
			back.Actions[i].Side = other(back.Actions[i].Side)
		}
		if d := cmp.Diff(there, back); d != "" {
			t.Fatal(d)
		}
	})
}

func modesDiffer(a, b Tree) bool {
	for p, e := range a {
		if e.Exec != b[p].Exec {
			return true
		}
	}
	return false
}

func sameTrees(a, b Tree) bool { return maps.EqualFunc(a, b, Same) }

func TestCompareKeepsFoldersTogether(t *testing.T) {
	got := of("a/b", "1", "a.txt", "1", "a-b", "1", "b", "1").Paths()
	if want := []string{"a", "a/b", "a-b", "a.txt", "b"}; !cmp.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestW03_W04_Names(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, ".": false, "..": false, "/": false, "//": false, "a/..": false, "x/.": false, "a\x00b": false,
		"a/b": false, strings.Repeat("x", 256): false, "\xff\xfe": true, "a\nb": true, `a\b`: true, "a:b": true, "-rf": true, "...": true,
	} {
		if ValidName(name) != want {
			t.Errorf("%q: valid %v", name, !want)
		}
	}
	if ValidPath("a//b") || ValidPath("/a") || ValidPath("") || !ValidPath("a/\xff/b") {
		t.Error("paths are not their names")
	}
}

func TestW06_W78_State(t *testing.T) {
	base := of("a/\xff\xfe", "x", "b", "y", "e\u0301", "/")
	base["l"] = Entry{Kind: Link, Target: "new\nline"}
	e := base["b"]
	e.Exec, e.Stamp = true, Stamp{MTime: -5, CTime: 1 << 62, Inode: 1<<64 - 1}
	base["b"] = e
	want := State{Pair: "p", Generation: 7, Base: base}
	data := want.Encode()
	got, err := DecodeState(data)
	if err != nil || !cmp.Equal(got, want) {
		t.Fatalf("%v: %s", err, cmp.Diff(got, want))
	}
	for i := range data {
		bad := slices.Clone(data)
		bad[i] ^= 0x20
		if _, err := DecodeState(bad); !errors.Is(err, ErrState) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := DecodeState(data[:i]); !errors.Is(err, ErrState) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(State{Pair: "p", Base: of("a/b", "c")}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := sha256.Sum256(data)
		s, err := DecodeState(append(slices.Clone(data), sum[:]...))
		if err != nil {
			return
		}
		for p := range s.Base {
			if !ValidPath(p) {
				t.Errorf("%q", p)
			}
		}
	})
}
