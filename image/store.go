package image

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Store is the images and downloads below one folder of the user's cache:
//
//	images/ID/        finished images, read-only
//	images/.tmp-*     one that is being built
//	blobs/ab/abcd…    downloads by hash
//	locks/KEY.lock    build locks
//	logs/             consoles of builder machines
//
// All of it can be made again. It is safe for concurrent use.
type Store struct {
	dir   string
	pause time.Duration // before a download is tried again
}

const tempPrefix = ".tmp-"

// Open makes the folder when it is missing.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, pause: time.Second}
	if err := os.MkdirAll(s.images(), 0o755); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return s, nil
}

func (s *Store) images() string { return filepath.Join(s.dir, "images") }
func (s *Store) blobs() string  { return filepath.Join(s.dir, "blobs") }
func (s *Store) locks() string  { return filepath.Join(s.dir, "locks") }
func (s *Store) logs() string   { return filepath.Join(s.dir, "logs") }

// Ls lists the images, newest first. One that cannot be read is left out: it
// does not keep others from use.
func (s *Store) Ls() ([]Image, error) {
	entries, err := os.ReadDir(s.images())
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var list []Image
	for _, entry := range entries {
		if img, err := s.Inspect(entry.Name()); err == nil {
			list = append(list, img)
		}
	}
	slices.SortStableFunc(list, func(a, b Image) int { return b.Created.Compare(a.Created) })
	return list, nil
}

// byKey is the newest image of that key, made over the image parent ("": no layer).
func (s *Store) byKey(key, parent string) (Image, bool) {
	list, err := s.Ls()
	if err != nil {
		return Image{}, false
	}
	i := slices.IndexFunc(list, func(img Image) bool { return img.Key == key && img.Parent == parent })
	if i < 0 {
		return Image{}, false
	}
	return list[i], true
}

// Inspect returns the image with this ID, or an error that wraps ErrNotFound.
func (s *Store) Inspect(id string) (Image, error) {
	if err := checkID(id); err != nil {
		return Image{}, err
	}
	img := Image{}.in(filepath.Join(s.images(), id))
	err := errors.Join(readJSON(filepath.Join(img.Dir, manifestName), &img), readJSON(filepath.Join(img.Dir, lockName), &img.Lock))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if err == nil && img.ID != id {
		err = fmt.Errorf("folder holds image %q", img.ID)
	}
	if err == nil {
		err = img.whole()
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", id, err)
	}
	return img, nil
}

// whole says whether the files that a machine needs are there.
func (i Image) whole() error {
	for _, path := range []string{i.Kernel, filepath.Join(i.Modules, "modules.order"), i.Root} {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

func checkID(id string) error {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != 8 {
		return fmt.Errorf("%w: %q is no image ID", ErrNotFound, id)
	}
	return nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// Rm removes an image. The caller knows that no sandbox has an overlay over it.
// The name goes first, so that a half-removed image is none.
func (s *Store) Rm(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	dir := filepath.Join(s.images(), id)
	gone := filepath.Join(s.images(), tempPrefix+"rm-"+id)
	if err := os.Chmod(dir, 0o755); errors.Is(err, fs.ErrNotExist) { //nolint:gosec // a folder
		return fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if err := os.Rename(dir, gone); err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return removeSealed(gone)
}

// removeSealed removes a folder whose subfolders may be read-only.
func removeSealed(dir string) error {
	for _, sealed := range []string{dir, filepath.Join(dir, modulesName)} {
		if err := os.Chmod(sealed, 0o755); err != nil && !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // a folder
			return err
		}
	}
	return os.RemoveAll(dir)
}

// Prune removes the images that used does not report, and all downloads. What a
// kept layer was made over is kept with it: other layers can be made over it. It
// returns the removed images' IDs. Builds that run now are not disturbed in
// what they have; they may have to download again.
func (s *Store) Prune(used func(id string) bool) ([]string, error) {
	list, err := s.Ls()
	if err != nil {
		return nil, err
	}
	kept := keptOf(list, used)
	var removed []string
	var faults []error
	for _, img := range list {
		if kept[img.ID] {
			continue
		}
		if err := s.Rm(img.ID); err != nil {
			faults = append(faults, err)
			continue
		}
		removed = append(removed, img.ID)
	}
	return removed, errors.Join(append(faults, os.RemoveAll(s.blobs()))...)
}

// keptOf gives the images that are used, and those below them.
func keptOf(list []Image, used func(id string) bool) map[string]bool {
	parents, kept := map[string]string{}, map[string]bool{}
	for _, img := range list {
		parents[img.ID] = img.Parent
	}
	for _, img := range list {
		if !used(img.ID) {
			continue
		}
		for id := img.ID; id != "" && !kept[id]; id = parents[id] {
			kept[id] = true
		}
	}
	return kept
}

// sweep removes what killed builds of this recipe left. The caller holds its lock.
func (s *Store) sweep(key string) {
	entries, err := os.ReadDir(s.images())
	if err != nil {
		return
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), tempPrefix+key+"-") {
			removeSealed(filepath.Join(s.images(), entry.Name())) //nolint:errcheck // next time
		}
	}
}
