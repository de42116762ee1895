//go:build linux

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

// shortLived is a container whose process is over in about a millisecond, and
// which its runtime removes at once.
type shortLived struct {
	box
	size   int64 // what it writes
	copyUp int64 // what of the image is copied up for it
}

// runShort runs such a container, as docker run --rm does.
func runShort(docker *dockerAPI, i int) (c shortLived, err error) {
	c.name = fmt.Sprintf("e2e-short-%03d", i)
	c.size = int64(i + 1)
	script := "echo -n " + strings.Repeat("s", i+1) + " >/w/short"
	if i%4 == 3 {
		script += "; exec chmod 600 /img/chmod"
		c.copyUp = img("chmod")
	}
	b, err := runScript(docker, c.name, true, script)
	if err == nil {
		c.box = *b
	}
	return c, err
}

// runScript creates and starts a container that is over when the script is.
func runScript(docker *dockerAPI, name string, remove bool, script string) (*box, error) {
	var created struct {
		ID string `json:"Id"`
	}
	err := docker.do("POST", "/containers/create?name="+name, map[string]any{
		"Image": imageName, "Cmd": []string{"sh", "-c", script},
		"HostConfig": map[string]any{"NetworkMode": "none", "AutoRemove": remove},
	}, &created)
	if err != nil {
		return nil, err
	}
	return &box{id: created.ID, name: name}, docker.do("POST", "/containers/"+created.ID+"/start", nil, nil)
}

// manyContainers is from which number on LAYERTRACE_CONTAINERS asks for the long mode
// of the tests of containers' and daemons' lives.
const manyContainers = 100

// shortContainers is how many containers to run.
func shortContainers(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LAYERTRACE_CONTAINERS")
	if text == "" {
		return 6
	}
	count, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("LAYERTRACE_CONTAINERS: %v", err)
	}
	return count
}

// TestShortContainers: of containers that are gone within a moment, many at a
// time, each is named and accounted for to the byte.
func TestShortContainers(t *testing.T) {
	count := shortContainers(t)
	atOnce := min(20, max(3, count/4))
	docker := *env.docker
	client := *docker.client
	client.Timeout = 20 * time.Minute // the last of many waits for all others
	docker.client = &client
	s := watch(t, "--all")
	began := time.Now()
	all := make([]shortLived, count)
	work := make(chan int, count)
	for i := range count {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range work {
				var err error
				if all[i], err = runShort(&docker, i); err != nil {
					t.Errorf("%s: %v", all[i].name, err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d containers in %.1f s", count, time.Since(began).Seconds())
	s.until(2*time.Minute, "every container is removed", func(v *view) error {
		for i := range all {
			if _, err := v.event(&all[i].box, record.ContainerRemoved); err != nil {
				return err
			}
		}
		return nil
	})
	s.stop()
	for i := range all {
		all[i].check(t, &s.view)
	}
	if len(s.losses) != 0 {
		t.Errorf("losses: %+v", s.losses)
	}
}

// check holds a stream against what the container did in its life.
func (c *shortLived) check(t *testing.T, v *view) {
	t.Helper()
	b := &c.box
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s\n%s", c.name, fmt.Sprintf(format, args...), v.linesOf(b.of))
	}
	want := []string{record.ContainerFound, record.ContainerStarted, record.ContainerStopped, record.ContainerRemoved}
	if got := v.eventsOf(b); !slices.Equal(got, want) {
		fail("container events were %v, want %v", got, want)
	}
	for i := range v.growth {
		g := &v.growth[i]
		if !b.of(g) {
			continue
		}
		if g.Container.Name != c.name {
			fail("a record calls it %q", g.Container.Name)
		}
		if g.Process == nil || g.Process.ContainerID != c.id {
			fail("a record of a process that is not the container's:\n%s", g.line)
		}
	}
	onFile := v.sum(func(g *growth) bool { return b.of(g) && g.path() == "/w/short" && g.Process != nil })
	if onFile.size != c.size || onFile.written != uint64(c.size) || onFile.writes != 1 {
		fail("/w/short: %+v, want size and written %d by one write", onFile, c.size)
	}
	image := v.sum(func(g *growth) bool { return b.of(g) && g.path() == "/img/chmod" && g.Process != nil })
	if image.size != c.copyUp || image.copyUp != c.copyUp {
		fail("/img/chmod: %+v, want size and copied up %d", image, c.copyUp)
	}
	layers := v.layersOf(b)
	if len(layers) == 0 {
		fail("no layer record")
		return
	}
	first, last, sum := layers[0], layers[len(layers)-1], v.sum(b.of)
	if first.BaselineSize != 0 || last.Size != c.size+c.copyUp || last.UnattributedSize != 0 || last.UnattributedDisk != 0 {
		fail("the last layer record is %+v; want baseline 0, size %d, nothing unattributed", last, c.size+c.copyUp)
	}
	if sum.size != last.Size || sum.disk != last.Allocated-first.BaselineAllocated {
		fail("the growth records add up to %+v, the last layer record is %+v", sum, last)
	}
	removed, err := v.event(b, record.ContainerRemoved)
	if err != nil {
		fail("%v", err)
		return
	}
	if removed.LostSize == nil || *removed.LostSize != last.Size || removed.LostAllocated == nil || *removed.LostAllocated != last.Allocated {
		fail("lost_size is %s and lost_allocated %s, want %d and %d", number(removed.LostSize), number(removed.LostAllocated), last.Size, last.Allocated)
	}
}
