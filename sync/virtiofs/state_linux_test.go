package virtiofs

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Requests of vhost-user, and the answer that no other descriptor comes back.
const (
	setDeviceState   = 42
	checkDeviceState = 43
	noDescriptor     = 1 << 8
)

// save stops the ring and takes the device's state, as QEMU does.
func (f *frontend) save() []byte {
	f.t.Helper()
	f.stopRing()
	r, w, err := os.Pipe()
	f.check(err)
	if got := binary.NativeEndian.Uint64(f.send(setDeviceState, words(0, 0), int(w.Fd()))); got != noDescriptor {
		f.t.Fatalf("save: answer %#x", got)
	}
	w.Close()
	state, err := io.ReadAll(r)
	f.check(err)
	r.Close()
	f.must(checkDeviceState, nil)
	return state
}

// load hands a state in and says whether it was taken.
func (f *frontend) load(state []byte) bool {
	f.t.Helper()
	f.stopRing()
	r, w, err := os.Pipe()
	f.check(err)
	if got := binary.NativeEndian.Uint64(f.send(setDeviceState, words(1, 0), int(r.Fd()))); got != noDescriptor {
		f.t.Fatalf("load: answer %#x", got)
	}
	r.Close()
	_, err = w.Write(state)
	f.check(err)
	w.Close()
	return binary.NativeEndian.Uint64(f.send(checkDeviceState, nil)) == 0
}

// A machine is saved with files open, and loaded by another process of the server.
func TestDeviceStateKeepsWhatTheGuestKnows(t *testing.T) {
	w := newWorld(t)
	w.write(t, filepath.Join(w.dir, "dir/deep/f"), "0123456789")
	w.write(t, filepath.Join(w.dir, ".env"), secretEnv)
	w.write(t, filepath.Join(w.dir, "replaced"), "old")
	w.write(t, filepath.Join(w.dir, "gone"), "old")
	deep := w.dirNode("dir", "deep", "f")
	env, replaced, gone := w.dirNode(".env"), w.dirNode("replaced"), w.dirNode("gone")
	made, h, err := w.create(w.work, "made", unix.O_RDWR, 0o100644)
	w.check(err)
	_, err = w.fuse(16, made, pack(h, 0), words(4, 0), pack(0, 0), []byte("data"))
	w.check(err)
	out, err := w.fuse(27, w.work, words(unix.O_RDONLY, 0))
	w.check(err)
	dir := binary.NativeEndian.Uint64(out)
	state := w.save()
	if bytes.Contains(state, []byte("hunter2")) {
		t.Error("the state holds what is masked")
	}
	w.write(t, filepath.Join(w.dir, "new"), "new")
	w.check(os.Rename(filepath.Join(w.dir, "new"), filepath.Join(w.dir, "replaced")))
	w.check(os.Remove(filepath.Join(w.dir, "gone")))

	again := &world{frontend: start(t, w.cfg), dir: w.dir}
	if !again.load(state) {
		t.Fatal("the state was refused")
	}
	again.startRing()
	for name, node := range map[string]uint64{"deep": deep, "made": made} {
		_, err := again.fuse(3, node, pack(0, 0))
		again.want("getattr of "+name, err, nil)
	}
	for name, node := range map[string]uint64{"replaced": replaced, "gone": gone} {
		_, err := again.fuse(3, node, pack(0, 0))
		again.want("getattr of "+name, err, unix.ESTALE)
	}
	data, err := again.fuse(15, made, pack(h, 1), words(100, 0), pack(0, 0))
	if err != nil || string(data) != "ata" {
		t.Errorf("the open file reads %q, %v", data, err)
	}
	_, err = again.fuse(16, made, pack(h, 4), words(1, 0), pack(0, 0), []byte("!"))
	again.want("write to the open file", err, nil)
	if _, err := again.fuse(28, w.work, pack(dir, 0), words(4096, 0), pack(0, 0)); err != nil {
		t.Errorf("the open folder: %v", err)
	}
	if got, err := again.readAll(env); err != nil || got != "API_KEY=masked-by-sbx\n" {
		t.Errorf("the masked file reads %q, %v", got, err)
	}
	again.work = w.work
	if node, err := again.lookup(w.work, "replaced"); err != nil || node <= gone || node == made {
		t.Errorf("a new file has the number %d, %v", node, err)
	}
}

// A state is a file on the host; one that is broken is refused and opens nothing outside.
func TestDeviceStateIsChecked(t *testing.T) {
	w := newWorld(t)
	w.dirNode()
	for name, state := range map[string]string{
		"empty": "", "no tree": "{\"version\":1}\n", "version": "{\"version\":2}\n{}", "garbage": "x\ny",
		"other exports": "{\"version\":1}\n{\"version\":1,\"exports\":[{\"name\":\"x\"}]}",
	} {
		if w.load([]byte(state)) {
			t.Errorf("%s was taken", name)
		}
	}
	var st unix.Stat_t
	w.check(unix.Stat(w.canary, &st))
	escape := []byte(`{"version":1}` + "\n" + `{"version":1,"last_id":100,"exports":[{"name":"work","id":2},{"name":"ro","id":3}],` +
		`"nodes":[{"export":0,"parts":["Li4=","Y2FuYXJ5"],"ino":` + strconv.FormatUint(st.Ino, 10) + `,"id":50,"lookups":1},` +
		`{"export":9,"parts":[],"ino":1,"id":51}],"handles":[{"export":0,"parts":["Li4vY2FuYXJ5"],"ino":` + strconv.FormatUint(st.Ino, 10) + `,"id":52,"flags":2}]}`)
	if !w.load(escape) {
		t.Fatal("refused for another reason")
	}
	w.startRing()
	for _, node := range []uint64{50, 51} {
		_, err := w.fuse(3, node, pack(0, 0))
		w.want("a node outside", err, unix.ESTALE)
	}
	_, err := w.fuse(16, 50, pack(52, 0), words(1, 0), pack(0, 0), []byte("!"))
	w.want("a handle outside", err, unix.EBADF)
}
