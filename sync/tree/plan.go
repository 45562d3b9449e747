package tree

// Side is one of the two copies.
type Side uint8

// The sides. The zero Side is none.
const (
	Host Side = iota + 1
	Guest
)

func (s Side) String() string { return [...]string{"none", "host", "guest"}[min(s, Guest)] }

// Op is what an action does on its side.
type Op uint8

// Operations. Put and Make replace what Have says, which is never a folder.
const (
	Remove       Op = iota + 1 // a file or a link
	RemoveFolder               // an empty one
	Rename                     // Path becomes To, which does not exist
	Make                       // a folder
	Put                        // a file or a link, from the other side
)

func (o Op) String() string {
	return [...]string{"nothing", "remove", "remove folder", "rename", "make folder", "put"}[min(o, Put)]
}

// Action is one step. Whoever takes it checks first that Have is still what stands
// there (an absent entry: nothing may), and that the other side still has Want.
type Action struct {
	Op         Op
	Side       Side // whose copy changes
	Path       string
	To         string // Rename
	Have, Want Entry
}

// Conflict is a path that changed on both sides.
type Conflict struct {
	Path        string
	Host, Guest Entry
	// Kept is the name that the guest's version gets.
	Kept string
}

// Held is a difference that is left alone, and why.
type Held struct {
	Path, Reason string
	// Guest is the guest's entry at the time.
	Guest Entry
}

// Halt is a reason to do nothing at all before somebody was asked.
type Halt struct {
	Side   Side // who deleted
	Reason HaltReason
	Path   string // ProtectedDeleted
	Count  int    // DeletedMany: how many files
	Of     int    // DeletedMany: of how many in the agreed state
}

// HaltReason says what looked like an accident.
type HaltReason string

// The reasons. RootChanged and the like are found by who reads the trees.
const (
	Emptied          HaltReason = "emptied"           // everything is gone from one side
	DeletedMany      HaltReason = "deleted-many"      // more than the threshold
	ProtectedDeleted HaltReason = "protected-deleted" // a repository's .git is gone from the guest
	RootChanged      HaltReason = "root-changed"      // the folder is not the one that it was
)

// Plan is what there is to do, in order: conflicts' renames, removals (content before
// folders), folders (before content), files and links. If it has halts nothing of it
// may be done. Settled paths are the same on both sides and not in the agreed state yet.
type Plan struct {
	Actions   []Action
	Conflicts []Conflict
	Held      []Held
	Halts     []Halt
	Settled   []string
}

// Options are what Reconcile is told besides the trees.
type Options struct {
	// Hold gives a reason not to let a change of the guest reach the host, or "". have is
	// the host's entry, want the guest's.
	Hold func(path string, have, want Entry) string
	// Precious tells of a path whose deletion by the guest halts everything.
	Precious func(path string) bool
	// Fold maps names that the host's file system takes for one to the same string;
	// nil: it keeps all names apart.
	Fold func(path string) string
	// MaxDeletes is how many files a side may delete without a halt: 0 is a quarter of
	// the agreed state, but 20 at least and 1000 at most; less than 0 is any number.
	MaxDeletes int
	// Deleted counts deletions by the guest that were carried out a moment ago.
	Deleted int
	// Confirmed says that the user has agreed to what would halt.
	Confirmed bool
	// Among are the paths that may differ, all of them; nil: any may.
	Among map[string]bool
	// Review leaves conflicts as they are.
	Review bool
}

// Bounds of the default for MaxDeletes: fewer are an ordinary edit, more are worth a
// question in any project.
const (
	fewDeletes  = 20
	manyDeletes = 1000
)

func (o Options) threshold(files int) int {
	switch {
	case o.MaxDeletes < 0:
		return int(^uint(0) >> 1)
	case o.MaxDeletes > 0:
		return o.MaxDeletes
	}
	return min(max(files/4, fewDeletes), manyDeletes)
}
