package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// worthShrinking is the size of a log, in bytes, from which on what is told in it again and again is left out.
const worthShrinking = 64 << 20

// compact writes the log anew, with the last word only of what the guest left at each path: a guest that makes
// and removes the same names all day does not fill the disk. The caller holds the lock.
func (w *Writer) compact() error {
	folder := filepath.Join(w.dir, name(w.id))
	var keep []record
	last := map[string]int{}
	err := readLog(folder, func(r record) {
		if r.Op == opLeft || r.Op == opMetaLeft {
			key := r.Op + r.Export + "\x00" + string(r.Path)
			if i, ok := last[key]; ok {
				keep[i].Op = ""
			}
			last[key] = len(keep)
		}
		keep = append(keep, r)
	})
	if err != nil {
		return err
	}
	fresh := filepath.Join(folder, logFile+".new")
	file, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	size, err := writeRecords(file, keep)
	if err == nil {
		err = os.Rename(fresh, filepath.Join(folder, logFile))
	}
	if err != nil {
		return errors.Join(err, file.Close(), os.Remove(fresh))
	}
	w.file.Close() //nolint:errcheck // all in it is in the new one
	w.file, w.size, w.torn = file, size, false
	return nil
}

func writeRecords(file *os.File, records []record) (size int64, err error) {
	out := bufio.NewWriterSize(file, 1<<20)
	for _, r := range records {
		if r.Op == "" {
			continue
		}
		line, err := json.Marshal(r)
		if err != nil {
			return 0, err
		}
		size += int64(len(line)) + 1
		out.Write(append(line, '\n')) //nolint:errcheck // Flush tells
	}
	return size, errors.Join(out.Flush(), file.Sync())
}
