package layer

import "context"

// Totals is how large a tree is.
type Totals struct {
	// Size is the sum of st_size of all inodes but directories, each counted
	// once however many names it has: what docker ps -s shows under overlay2.
	Size int64
	// Allocated is the sum of st_blocks*512 of all inodes, directories and the
	// root included, each counted once: what du -s --block-size=1 shows.
	Allocated int64
	Files     int64 // inodes that are neither directories nor whiteouts
	Dirs      int64 // directories, the root included
	Whiteouts int64 // names, not inodes: they may all share one inode
}

// Tally adds up Totals from entries. The zero value is ready to use. It is not
// safe for concurrent use.
type Tally struct {
	Totals
	// seen has a bit for each inode that was met, 64 to a word: file systems give
	// numbers that lie close together to what lies together.
	seen map[inodeBlock]uint64
}

// inodeBlock stands for the inodes of a device with the numbers 64*block to
// 64*block+63.
type inodeBlock struct{ dev, block uint64 }

// Add counts the entry. It reports whether its inode was new, so that its sizes
// count.
func (t *Tally) Add(e *Entry) bool {
	if e.Whiteout {
		t.Whiteouts++
	}
	// Inodes with a single name are remembered too: a file that is renamed during
	// the walk can come by under both names.
	block, bit := inodeBlock{e.Dev, e.Inode / 64}, uint64(1)<<(e.Inode%64)
	met := t.seen[block]
	if met&bit != 0 {
		return false
	}
	if t.seen == nil {
		t.seen = make(map[inodeBlock]uint64)
	}
	t.seen[block] = met | bit

	t.Allocated += e.Allocated
	switch {
	case e.Dir():
		t.Dirs++
	case e.Whiteout:
	default:
		t.Files++
		t.Size += e.Size
	}
	return true
}

// Measure returns the totals of the tree at root. Its errors are those of Walk.
func Measure(ctx context.Context, root string) (Totals, error) {
	var t tallyVisitor
	w := newWalker(&t)
	w.attributes = false
	err := w.walk(ctx, root)
	return t.Totals, err
}

type tallyVisitor struct{ Tally }

func (t *tallyVisitor) Visit(e *Entry) error {
	t.Add(e)
	return nil
}
