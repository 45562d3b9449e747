package qemu

import "time"

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// measureTSC gives the counter's rate in kHz. TCG guests see the host's counter;
// the "cpu MHz" of /proc/cpuinfo is the current clock, which is another thing on a
// processor that changes it. 50 ms against the monotonic clock are right to some
// ten parts in a million.
func measureTSC() int {
	begin, from := time.Now(), rdtsc()
	time.Sleep(50 * time.Millisecond)
	ticks, took := rdtsc()-from, time.Since(begin)
	return int(float64(ticks) / (float64(took) / float64(time.Millisecond)))
}
