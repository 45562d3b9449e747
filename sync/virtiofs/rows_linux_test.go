package virtiofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// makes tries to make a file at a path, with the folders above, and tells whether it is there.
func (w *world) makes(path string) bool {
	for i, c := range path {
		if c == '/' {
			w.guestMkdir(path[:i])
		}
	}
	w.guestWrite(path, "evil")
	_, err := os.Lstat(filepath.Join(w.dir, path))
	return err == nil
}

// TestRows is the attack list of the shared folder, as far as the guest's kernel is the attacker.
func TestRows(t *testing.T) {
	for row, paths := range map[string][]string{
		"W09_spellings_of_git": {
			".git /hooks/x", ".git./hooks/x", ".git...:alternate-stream/hooks/x", "git~1/hooks/x", ".g\u200cit/hooks/x", "GIT~2/hooks/x", ".git. /hooks/x",
			`.\.GIT\foobar`, `.git\foobar`, `.git\hooks/x`, "\u200c.Git/hooks/x", ".gI\u200cT/hooks/x", ".GiT\u200c/hooks/x",
		},
		"W13_git_in_other_cases": {".GIT/hooks/x", ".Git/hooKs/x", ".gIt/config", ".GIt/hooks/x", ".gIT/hooks/x", ".giT/hooks/x", ".GiT/hooks/x"},
		"W15_other_cases":        {".VSCODE/tasks.json", ".cLaUdE/Settings.JSON"},
		"W16_folding_letters": {
			".v\u017fcode/tasks.json", ".hus\u212ay/pre-commit", ".\uff47it/hooks/x", ".git/con\ufb01g", ".env\u00adrc",
			".vscode\ufe0f/x", ".claude/\u017fettings.json",
		},
		"W86_hooks": {".git/hooks/post-checkout", "sub/.git/hooks/x", ".git/worktrees/a/hooks/x", ".githooks/pre-commit", ".git/remotes/origin"},
		"W89_hooks_of_submodules": {
			".git/modules/a/hooks/x", ".git/modules/a/b/hooks/x", ".git/modules/a/config.worktree",
			".git/worktrees/t/modules/a/hooks/x", ".git/worktrees/t/modules/a/config",
		},
		"W94_editors_folders": {
			".vscode/tasks.json", ".idea/workspace.xml", ".devcontainer/devcontainer.json", "sub/.vscode/launch.json",
			"a.code-workspace", ".zed/tasks.json", ".nvim.lua", ".exrc",
		},
		"W95_files_that_tools_obey": {
			".envrc", ".tool-versions", ".mise.toml", ".nvmrc", ".npmrc", ".netrc", ".pypirc", ".pre-commit-config.yaml", ".husky/pre-commit", ".yarnrc.yml",
			"mise.toml", "lefthook.yml", ".gdbinit", ".irbrc", ".pnpmfile.cjs", ".cargo/config.toml", ".hg/hgrc", ".gitconfig",
		},
		"W96_agents_settings": {
			".claude/settings.json", ".claude/hooks/x", ".codex/config.toml", ".gemini/settings.json", ".cursor/rules",
			".mcp.json", ".opencode/x", ".windsurf/mcp.json",
		},
		"W99_our_own_file": {"sbx.yaml", "sbx.yml"},
	} {
		t.Run(row, func(t *testing.T) {
			w := newWorld(t)
			for _, p := range paths {
				if w.makes(p) {
					t.Errorf("the guest made %q", p)
				}
			}
		})
	}
	for name, row := range map[string]func(*testing.T, *world){
		"W05_W06_W07_W11_names_are_bytes":        namesAreBytes,
		"W21_W22_W29_W32_links_are_not_followed": linksAreNotFollowed,
		"W30_targets_of_links":                   linkTargets,
		"W31_root_replaced":                      rootReplaced,
		"W35_W36_nothing_is_opened_that_blocks":  nothingBlocks,
		"W37_W40_devices_and_owners":             devicesAndOwners,
		"W41_attributes":                         attributes,
		"W46_executable_bit":                     executableBit,
		"W47_read_only_share":                    readOnlyShare,
		"W87_W88_keys_that_run_programs":         keysThatRunPrograms,
		"W105_what_is_believed_for_how_long":     believed,
	} {
		t.Run(name, func(t *testing.T) { row(t, newWorld(t)) })
	}
	t.Run("W48_mounts_of_the_host", mountsOfTheHost)
	t.Run("W51_a_guest_that_fills_the_disk", guestFillsDisk)
}

func namesAreBytes(t *testing.T, w *world) {
	for _, n := range []string{"\xff\xfe", "new\nline", "esc\x1b[2J", "\u202egnp.exe", `a\b`, "a:b", "-rf", "--checkpoint-action=exec=sh", "$(id)"} {
		w.guestWrite(n, "x")
		if b, err := os.ReadFile(filepath.Join(w.dir, n)); err != nil || string(b) != "x" {
			t.Errorf("%q: %q, %v", n, b, err)
		}
		if _, err := w.lookup(w.work, n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
}

func linksAreNotFollowed(t *testing.T, w *world) {
	w.check(os.Symlink("/etc", filepath.Join(w.dir, "etc")))
	w.check(os.MkdirAll(filepath.Join(w.dir, "d1/d2"), 0o755))
	w.check(os.Symlink("..", filepath.Join(w.dir, "d1/d2/l1")))
	w.check(os.Symlink("d1/d2/l1/../..", filepath.Join(w.dir, "l2")))
	w.check(os.Symlink("/proc/self/root", filepath.Join(w.dir, "proc")))
	for path, below := range map[string]string{"etc": "passwd", "d1/d2/l1": "d2", "l2": "canary", "proc": "etc"} {
		node, err := w.node(path)
		w.check(err)
		_, err = w.lookup(node, below)
		w.want("through "+path, err, unix.ENOTDIR)
		_, err = w.fuse(14, node, words(unix.O_RDONLY, 0))
		w.want("open "+path, err, unix.ENXIO)
		_, _, err = w.create(node, "made", unix.O_RDWR, 0o644)
		w.want("make below "+path, err, unix.ENOTDIR)
	}
	// A file becomes a link between look and open: the descriptor is the file's.
	w.write(t, filepath.Join(w.dir, "f"), "inside")
	node := w.dirNode("f")
	w.check(os.Remove(filepath.Join(w.dir, "f")))
	w.check(os.Symlink(w.canary, filepath.Join(w.dir, "f")))
	if got, err := w.readAll(node); err == nil && got == "alive" {
		t.Error("the file outside was read")
	}
}

func linkTargets(t *testing.T, w *world) {
	for _, target := range []string{strings.Repeat("a/", 2047) + "b", "new\nline", "/proc/self/root"} {
		_, err := w.fuse(6, w.work, name("l", target))
		w.check(err)
		if got, err := os.Readlink(filepath.Join(w.dir, "l")); err != nil || got != target {
			t.Errorf("%.20q became %.20q, %v", target, got, err)
		}
		w.guestRemove("l")
	}
	if _, err := w.fuse(6, w.work, name("l", "")); err == nil {
		t.Error("a link to nothing was made")
	}
}

func rootReplaced(t *testing.T, w *world) {
	w.write(t, filepath.Join(w.dir, "f"), "old")
	w.check(os.Rename(w.dir, w.dir+".away"))
	w.check(os.Symlink("/etc", w.dir))
	if _, err := w.lookup(w.work, "passwd"); err == nil {
		t.Error("the share leads to the folder that was put in its place")
	}
	node, err := w.lookup(w.work, "f")
	w.check(err)
	if got, err := w.readAll(node); err != nil || got != "old" {
		t.Errorf("%q, %v", got, err)
	}
}

func nothingBlocks(t *testing.T, w *world) {
	w.check(unix.Mkfifo(filepath.Join(w.dir, "fifo"), 0o644))
	var config net.ListenConfig
	l, err := config.Listen(context.Background(), "unix", filepath.Join(w.dir, "s"))
	w.check(err)
	defer l.Close()
	for _, n := range []string{"fifo", "s"} {
		node, err := w.lookup(w.work, n)
		w.check(err)
		_, err = w.fuse(14, node, words(unix.O_RDONLY, 0))
		w.want("open of "+n, err, unix.ENXIO)
	}
}

func devicesAndOwners(t *testing.T, w *world) {
	for _, kind := range []uint32{unix.S_IFCHR, unix.S_IFBLK} {
		_, err := w.fuse(8, w.work, words(kind|0o666, 0x0801, 0, 0), name("dev"))
		w.want("mknod", err, unix.EPERM)
	}
	w.guestWrite("f", "x")
	node := w.dirNode("f")
	before, err := os.Stat(filepath.Join(w.dir, "f"))
	w.check(err)
	for _, uid := range []uint32{0, 65534, 4_000_000_000} {
		_, err := w.chown(1000, node, uid, uid)
		w.want("chown by a user", err, unix.EPERM)
		out, err := w.chown(0, node, uid, uid)
		w.want("chown by root", err, nil)
		if owner := binary.NativeEndian.Uint32(out[16+68:]); owner != 1000 {
			t.Errorf("the guest's root was told of owner %d", owner)
		}
	}
	after, err := os.Stat(filepath.Join(w.dir, "f"))
	w.check(err)
	old, now := before.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
	if old.Uid != now.Uid || old.Gid != now.Gid || before.Mode() != after.Mode() {
		t.Errorf("owner and mode were %d:%d %v and are %d:%d %v", old.Uid, old.Gid, before.Mode(), now.Uid, now.Gid, after.Mode())
	}
}

func attributes(t *testing.T, w *world) {
	w.guestWrite("f", "x")
	node := w.dirNode("f")
	set := func(attr string, value []byte) error {
		_, err := w.fuse(21, node, words(uint32(len(value)), 0), name(attr), value)
		return err
	}
	for _, attr := range []string{"security.capability", "trusted.x", "com.apple.quarantine"} {
		if err := set(attr, []byte("x")); err == nil {
			t.Errorf("%s was set", attr)
		}
	}
	if err := set("user.big", bytes.Repeat([]byte("x"), 65<<10)); err == nil {
		t.Error("an attribute of 65 KiB was set")
	}
}

func executableBit(t *testing.T, w *world) {
	w.guestWrite("tool", "#!/bin/sh\n")
	for _, mode := range []uint32{0o755, 0o644} {
		_, err := w.setattr(w.dirNode("tool"), 1<<0, mode, 0, 0)
		w.check(err)
		if info, err := os.Stat(filepath.Join(w.dir, "tool")); err != nil || uint32(info.Mode().Perm()) != mode {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	}
}

func readOnlyShare(t *testing.T, w *world) {
	_, _, err := w.create(w.ro, "made", unix.O_RDWR, 0o644)
	w.want("create", err, unix.EROFS)
	node, err := w.lookup(w.ro, "f")
	w.check(err)
	_, err = w.fuse(14, node, words(unix.O_RDWR, 0))
	w.want("open for writing", err, unix.EROFS)
	_, err = w.fuse(10, w.ro, name("f"))
	w.want("unlink", err, unix.EROFS)
	if got, err := w.readAll(node); err != nil || got != "fixed" {
		t.Errorf("%q, %v", got, err)
	}
}

func keysThatRunPrograms(t *testing.T, w *world) {
	w.write(t, filepath.Join(w.dir, ".git/config"), "[core]\n\tbare = false\n")
	git := w.dirNode(".git")
	for _, evil := range []string{
		"[core]\n\tfsmonitor = ./x\n", "[core]\n\thooksPath = x\n", "[core]\n\tsshCommand = x\n", "[core]\n\tpager = x\n", "[alias]\n\ts = !x\n",
		"[diff \"a\"]\n\tcommand = x\n", "[diff \"a\"]\n\ttextconv = x\n", "[filter \"a\"]\n\tclean = x\n", "[filter \"a\"]\n\tsmudge = x\n",
		"[merge \"a\"]\n\tdriver = x\n", "[uploadpack]\n\tpackObjectsHook = x\n", "[include]\n\tpath = x\n",
		"[core]\n\teditor = x\n", "[core]\n\taskPass = x\n", "[core]\n\tgitProxy = x\n", "[core]\n\tworktree = /\n", "[core]\n\tattributesFile = x\n",
		"[core]\n\talternateRefsCommand = x\n", "[sequence]\n\teditor = x\n", "[credential]\n\thelper = !x\n", "[gpg]\n\tprogram = x\n",
		"[gpg \"ssh\"]\n\tdefaultKeyCommand = x\n", "[url \"ext::x\"]\n\tinsteadOf = https:\n", "[protocol \"ext\"]\n\tallow = always\n",
		"[remote \"o\"]\n\treceivepack = x\n", "[remote \"o\"]\n\tvcs = x\n", "[submodule \"a\"]\n\tupdate = !x\n", "[interactive]\n\tdiffFilter = x\n",
		"[pager]\n\tlog = x\n", "[difftool \"a\"]\n\tcmd = x\n", "[mergetool \"a\"]\n\tcmd = x\n", "[browser \"a\"]\n\tcmd = x\n", "[man \"a\"]\n\tcmd = x\n",
		"[trailer \"a\"]\n\tcommand = x\n", "[tar \"a\"]\n\tcommand = x\n", "[init]\n\ttemplateDir = x\n", "[lfs \"customtransfer.a\"]\n\tpath = x\n",
		"[extensions]\n\tworktreeConfig = true\n", "[ssh]\n\tvariant = x\n", "[sendemail]\n\tsmtpServer = /x\n", "[http]\n\tproxy = x\n",
		"[remote \"o\"]\n\turl = ./evil.git\n", "[remote \"o\"]\n\turl = https://a.b/c\n\tpushurl = evil\n", "[branch \"main\"]\n\tremote = evil\n",
	} {
		w.want(evil, w.commitConfig(git, "[core]\n\tbare = false\n"+evil), unix.EPERM)
	}
	w.want("a remote", w.commitConfig(git, "[core]\n\tbare = false\n[remote \"o\"]\n\turl = https://example.com/x.git\n"), nil)
}

// believed: what the guest may believe without asking again, in seconds.
func believed(t *testing.T, w *world) {
	w.write(t, filepath.Join(w.dir, "f"), "x")
	out, err := w.fuse(1, w.work, name("f"))
	w.check(err)
	for what, at := range map[string]int{"entry": 16, "attributes": 24} {
		if s := binary.NativeEndian.Uint64(out[at:]); s > 1 {
			t.Errorf("%s are believed for %d s", what, s)
		}
	}
}

// mountsOfTheHost: what is mounted below an export is not in it.
func mountsOfTheHost(t *testing.T) {
	entries, err := os.ReadDir("/dev")
	if err != nil {
		t.Fatal(err)
	}
	var top unix.Stat_t
	if err := unix.Stat("/dev", &top); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e os.DirEntry) bool {
		var st unix.Stat_t
		return e.IsDir() && unix.Stat("/dev/"+e.Name(), &st) == nil && st.Dev != top.Dev
	})
	if i < 0 {
		t.Skip("nothing is mounted below /dev here")
	}
	w := &world{frontend: start(t, Config{Exports: []Export{{Name: "dev", Path: "/dev", ReadOnly: true}}})}
	w.init()
	dev, err := w.lookup(1, "dev")
	w.check(err)
	if _, err := w.lookup(dev, entries[i].Name()); err == nil {
		t.Errorf("the mount %q is served", entries[i].Name())
	}
}
