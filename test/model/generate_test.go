package model

import (
	"slices"

	"pgregory.net/rapid"
)

// The names that operations are about: few, so that they meet. Which of them are
// there at the start, and in which of the two directories below the overlay, is
// said by populateLower and populateUpper.
var (
	filePaths = []string{
		"a", "img/mid", "d/a", "m/a", "img/big", "b", "old", "d/s/a", "img/small", "img/hard1", "e/b", "img/hard2", "img/sparse",
		"img/sub/a", "m/s/b", "img/sub/b", "img/link", "img/sub/deep/c", "var/log", "d/b", "e/img", "img/n",
	}
	dirPaths = []string{"m", "d/s", "img", "d", "m/s", "e", "img/sub", "img/sub/deep", "img/empty", "var", "e/img"}
	allPaths = append(append([]string(nil), filePaths...), dirPaths...)
	// newPaths are those at which there is seldom something.
	newPaths = []string{"a", "b", "d/n", "img/n", "m/a", "n", "d/s/a", "img/sub/n", "img/empty/n", "e/n", "img/mid", "d/a", "var/n"}
)

// The numbers that operations are about: on and around the bounds of blocks, of
// what an inode has room for, and of what a directory's block has room for.
var (
	sizes       = []int64{0, 1, 4096, 100, 5000, 20000, 70000, 4095, 4097, 59, 60, 1000, 2500, 8192, 65536, 130000}
	offsets     = []int64{0, 4096, 1, 4095, 8192, 65536, 100, 5000, 16384, 200000, 131072, 1 << 20}
	pageSizes   = []int64{page, 2 * page, 16 * page, 5 * page, 100}
	pageOffsets = []int64{0, page, 4 * page, 16 * page, 1}
	shortSizes  = []int64{1, 100, 59, 1000, 60, 2500, 4000, 0}
)

// plan is what is known of a history while it is drawn, as if all went well and in
// this order. It only makes it likely that an operation finds what it is about.
type plan struct {
	history    []op
	held       []op // what has put something into a slot that is there still
	attributed []op // what has set an attribute
	made       []op // what has made a directory
}

// drawHistory draws the operations of one history.
func drawHistory(t *rapid.T) []op {
	var p plan
	next := rapid.Custom(p.draw) // shown as a whole, not number by number
	t.Repeat(map[string]func(*rapid.T){
		"next": func(t *rapid.T) { p.add(next.Draw(t, "next")) },
	})
	return p.history
}

func (p *plan) add(o op) {
	p.history = append(p.history, o)
	holds := kindNamed[o.Kind].holds
	if o.Kind == "kill" {
		p.held = slices.DeleteFunc(p.held, func(h op) bool { return h.Worker == o.Worker })
	}
	if holds || o.Kind == "release" {
		p.held = slices.DeleteFunc(p.held, func(h op) bool { return h.Worker == o.Worker && h.Slot == o.Slot })
	}
	if holds {
		p.held = append(p.held, o)
	}
	switch o.Kind {
	case "setxattr":
		p.attributed = append(p.attributed, o)
	case "mkdir":
		p.made = append(p.made, o)
	}
}

// draw draws one operation.
func (p *plan) draw(t *rapid.T) op {
	k := rapid.SampledFrom(kinds).Draw(t, "kind")
	o := op{Kind: k.name}
	// Often the one that was at work goes on: a look at the disk after each change
	// of the worker then says what each has done.
	if o.Worker = rapid.IntRange(0, workers).Draw(t, "worker"); o.Worker == workers {
		o.Worker = 0
		if len(p.history) > 0 {
			o.Worker = p.history[len(p.history)-1].Worker
		}
	}
	pick := func(from []string, label string) string { return rapid.SampledFrom(from).Draw(t, label) }
	number := func(from []int64, label string) int64 { return rapid.SampledFrom(from).Draw(t, label) }
	o.Path = pickPath(k.args, pick, map[args][]string{onFile: filePaths, onDir: dirPaths, onAny: allPaths, onNew: newPaths})
	o.To = pickPath(k.args, pick, map[args][]string{toFile: filePaths, toDir: dirPaths, toAny: allPaths, toNew: newPaths})
	if k.args&inSlot != 0 {
		o.Slot = rapid.IntRange(0, slots-1).Draw(t, "slot")
	}
	if k.args&ofPeer != 0 {
		o.Peer = rapid.IntRange(0, workers-1).Draw(t, "peer")
	}
	if k.args&atOffset != 0 {
		o.Offset = number(offsets, "offset")
	}
	switch {
	case k.args&inPages != 0:
		o.Offset, o.Size = number(pageOffsets, "offset"), number(pageSizes, "size")
	case k.args&inShort != 0:
		o.Size = number(shortSizes, "size")
	case k.args&ofSize != 0:
		o.Size = number(sizes, "size")
	}
	if len(k.choices) > 0 {
		o.Choice = pick(k.choices, "choice")
	}
	p.aim(t, &k, &o)
	return o
}

// pickPath draws the path that the arguments ask for, if any.
func pickPath(a args, pick func([]string, string) string, lists map[args][]string) string {
	for bit, list := range lists {
		if a&bit != 0 {
			return pick(list, "path")
		}
	}
	return ""
}

// aim lets an operation be about something that an earlier one has left. What it
// draws depends on the kind alone, so that a history from which an operation is
// taken out is otherwise the same.
func (p *plan) aim(t *rapid.T, k *kind, o *op) {
	var earlier []op
	switch {
	case k.name == "removexattr":
		earlier = p.attributed
	case k.name == "rmdir" || k.name == "movedir":
		earlier = p.made
	case k.args&inSlot != 0 && (!k.holds || k.name == "adopt"):
		earlier = p.fit(k)
	default:
		return
	}
	which := rapid.IntRange(0, 7).Draw(t, "which")
	if len(earlier) == 0 {
		return
	}
	switch e := earlier[which%len(earlier)]; {
	case k.name == "removexattr":
		o.Path, o.Choice = e.Path, e.Choice
	case k.name == "adopt":
		o.Peer, o.Slot = e.Worker, e.Slot
	case k.args&inSlot != 0:
		o.Worker, o.Slot = e.Worker, e.Slot
	default:
		o.Path = e.Path
	}
}

// fit returns what holds something that a kind can use.
func (p *plan) fit(k *kind) (fit []op) {
	for _, h := range p.held {
		writes := h.Kind == "hold" && h.Choice != "read only" || h.Kind == "tmpfile" || h.Kind == "adopt"
		stores := writes || h.Kind == "holdmap"
		if writes || stores && (k.name == "heldstore" || k.name == "heldfork") || k.name == "release" || k.name == "heldlink" || k.name == "heldsync" {
			fit = append(fit, h)
		}
	}
	return fit
}
