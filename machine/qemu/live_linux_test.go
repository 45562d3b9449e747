package qemu

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// checkNobody reads from the kernel what a running QEMU is allowed.
func checkNobody(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"}
	if os.Getuid() == 0 {
		want = append(want, fmt.Sprintf("Uid:\t%d\t%d\t%d\t%d", testUID, testUID, testUID, testUID), "CapBnd:\t0000000000000000", "Groups:\t \n")
	}
	for _, w := range want {
		if !strings.Contains(string(status), w) {
			t.Errorf("QEMU's status has no %q:\n%s", w, status)
		}
	}
}
