package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// Before keeps what stands at a path below root, if the guest did not leave it there since
// the checkpoint. After an error the change must not be made. The caller sees to it that
// no other change of the guest's to the path comes between this and [Journal.After].
func (j *Journal) Before(root *os.Root, name string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.before(root, name)
	return err
}

// before tells as well whether the content is safe.
func (j *Journal) before(root *os.Root, name string) (safe bool, err error) {
	now, err := look(root, name)
	if err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	left, known := j.left[name]
	own := known && left.same(now)
	if _, kept := j.kept[name]; kept && own {
		return true, nil
	}
	r := record{Path: []byte(name), Own: own, State: now}
	if now.Kind == File {
		if err := j.keep(root, name, &r); err != nil {
			return false, fmt.Errorf("journal: keep %q: %w", name, err)
		}
	}
	if err := j.append(r); err != nil {
		return false, fmt.Errorf("journal: %w", err)
	}
	j.kept[name] = struct{}{}
	return r.Lost == "" && now.Kind != Other, nil
}

// keep copies a file's content into the store, or says in the record why not.
func (j *Journal) keep(root *os.Root, name string, r *record) error {
	if r.State.Size > j.limits.File || !j.room(r.State.Size) {
		r.Lost = "too big"
		j.warn.Warn("too big to keep: it cannot be undone", "path", name, "bytes", r.State.Size)
		return nil
	}
	in, err := root.Open(name)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			r.Lost = "not readable"
			j.warn.Warn("not readable, so not kept: it cannot be undone", "path", name)
			return nil
		}
		return err
	}
	defer in.Close()
	object := objectName(j.number, j.object+1)
	out, err := j.dir.OpenFile(object, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	// A host's user who appends without end does not fill the disk.
	n, err := io.Copy(out, io.LimitReader(in, j.limits.File+1))
	if err == nil && n > j.limits.File {
		err = errors.New("it grows while it is kept")
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, j.dir.Remove(object))
	}
	j.object++
	j.sizes[j.number] += n
	r.Object, r.State.Size = j.object, n
	return nil
}

// room drops the oldest checkpoints until there is room for size more bytes.
func (j *Journal) room(size int64) bool {
	total, oldest := size, 0
	for n, s := range j.sizes {
		total += s
		if s > 0 && n != j.number && (oldest == 0 || n < oldest) {
			oldest = n
		}
	}
	if total <= j.limits.Total {
		return true
	}
	if oldest == 0 || j.dir.RemoveAll(strconv.Itoa(oldest)) != nil {
		return false
	}
	j.warn.Warn("checkpoint dropped: the journal is full", "checkpoint", oldest)
	delete(j.sizes, oldest)
	return j.room(size)
}

// After notes what the guest left at a path. settled writes it down now; else at the next
// checkpoint: until then a crash makes it look like the host's user's own.
func (j *Journal) After(root *os.Root, name string, settled bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	now, err := look(root, name)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.know(name, now)
	if !settled {
		j.dirty[name] = struct{}{}
		return nil
	}
	delete(j.dirty, name)
	if err := j.append(record{Path: []byte(name), After: true, State: now}); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (j *Journal) know(name string, s State) {
	if _, ok := j.left[name]; !ok && len(j.left) >= maxKnown {
		for old := range j.left {
			delete(j.left, old)
			delete(j.kept, old)
			delete(j.dirty, old)
			break
		}
	}
	j.left[name] = s
}
