// Package names hands out the made-up addresses by which a guest reaches a
// name. One name has one address; the address is derived from the name, so a
// guest that kept it over a restart of the gateway finds the same name there,
// or nothing, and practically never another one. The table is bounded: when it
// is full, the name that was longest unused and that no connection holds goes.
//
// An address that the table does not know leads nowhere. That is the whole of
// the defence against addresses that a guest learnt elsewhere.
package names

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// TTL is how long a guest may keep an answer (the TTL in it), and so how long
// the table keeps a name that was just asked. Short, because a policy changes
// while guests run; not so short that every connection asks again.
const TTL = 60 * time.Second

// DefaultMax is the most names that one guest has at a time. A build that
// talks to some hundred hosts fits; what a hostile guest can fill is about 1 MB.
const DefaultMax = 4096

// ErrFull says that every name of a full table is in use or fresh.
var ErrFull = errors.New("the table of names is full")

// DefaultPrefix is the benchmarking network of RFC 2544: never a real peer, and
// in no default address pool of Docker.
func DefaultPrefix() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/15") }

type entry struct {
	name    string
	addr    netip.Addr
	used    int
	expires time.Time
}

// Table is a bijection between names and addresses. It is safe for concurrent use.
type Table struct {
	prefix netip.Prefix
	max    int
	now    func() time.Time

	mu     sync.Mutex
	byName map[string]*list.Element
	byAddr map[netip.Addr]*list.Element
	order  *list.List // of *entry, least recently asked first
}

// New makes an empty table of at most max names with addresses of prefix, an
// IPv4 network with more than twice max addresses. now is the clock.
func New(prefix netip.Prefix, max int, now func() time.Time) (*Table, error) {
	if !prefix.IsValid() || !prefix.Addr().Is4() {
		return nil, errors.New("addresses for names need an IPv4 network")
	}
	if max < 1 || 1<<(32-prefix.Bits()) <= 2*max {
		return nil, errors.New("the network " + prefix.String() + " is too small for its table of names")
	}
	return &Table{
		prefix: prefix.Masked(), max: max, now: now, order: list.New(),
		byName: make(map[string]*list.Element), byAddr: make(map[netip.Addr]*list.Element),
	}, nil
}

// Contains says whether addr is of the table's network, given out or not.
func (t *Table) Contains(addr netip.Addr) bool { return t.prefix.Contains(addr) }

// Assign returns the address of a canonical name, and renews its lease.
func (t *Table) Assign(name string) (netip.Addr, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if el, ok := t.byName[name]; ok {
		e := el.Value.(*entry)
		e.expires = t.now().Add(TTL)
		t.order.MoveToBack(el)
		return e.addr, nil
	}
	if len(t.byName) >= t.max && !t.evict() {
		return netip.Addr{}, ErrFull
	}
	e := &entry{name: name, addr: t.free(name), expires: t.now().Add(TTL)}
	el := t.order.PushBack(e)
	t.byName[name], t.byAddr[e.addr] = el, el
	return e.addr, nil
}

// Acquire returns the name that addr was given out for and holds it in the
// table until release is called, which may be done more than once.
func (t *Table) Acquire(addr netip.Addr) (name string, release func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	el, ok := t.byAddr[addr]
	if !ok {
		return "", func() {}, false
	}
	e := el.Value.(*entry)
	e.used++
	t.order.MoveToBack(el)
	return e.name, sync.OnceFunc(func() { t.release(e) }), true
}

// Forget drops every name that keep refuses and that no connection holds.
func (t *Table) Forget(keep func(name string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for el := t.order.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*entry); e.used == 0 && !keep(e.name) {
			t.drop(el)
		}
		el = next
	}
}

// Len is the number of names that have an address.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byName)
}

func (t *Table) release(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.used--
}

// evict makes room by dropping the name that was longest unused. A name whose
// answer a guest may still hold, or that a connection uses, stays.
func (t *Table) evict() bool {
	now := t.now()
	for el := t.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*entry); e.used == 0 && !now.Before(e.expires) {
			t.drop(el)
			return true
		}
	}
	return false
}

func (t *Table) drop(el *list.Element) {
	e := t.order.Remove(el).(*entry)
	delete(t.byName, e.name)
	delete(t.byAddr, e.addr)
}

// free finds the address for a name: the hash of the name as an offset, then
// the next that is free. The network's first and last address are left out,
// because some software takes them for a network and a broadcast.
func (t *Table) free(name string) netip.Addr {
	sum := sha256.Sum256([]byte(name))
	size := uint32(1)<<(32-t.prefix.Bits()) - 2
	base := t.prefix.Addr().As4()
	first := binary.BigEndian.Uint32(base[:]) + 1
	offset := binary.BigEndian.Uint32(sum[:4]) % size
	for {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], first+offset)
		addr := netip.AddrFrom4(b)
		if _, taken := t.byAddr[addr]; !taken {
			return addr
		}
		offset = (offset + 1) % size
	}
}
