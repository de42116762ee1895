package session

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/layertrace/layertrace/cmd/layertrace/internal/sessiontest"
	"github.com/layertrace/layertrace/internal/record"
	"github.com/layertrace/layertrace/resolver"
)

// withLog gives a container a log of that size.
func withLog(t *testing.T, c resolver.Container, size int) resolver.Container {
	c.LogDriver, c.LogPath = "json-file", filepath.Join(t.TempDir(), c.ID+"-json.log")
	sessiontest.Write(t, c.LogPath, size)
	return c
}

func TestLogGrowsBesideTheLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := withLog(t, sessiontest.NewContainer(t, "api", map[string]int{"f": 10}), 1000)
		w := run(t, nil, c)
		w.sleep(time.Second)
		logs := of[*record.Log](w.out)
		if len(logs) != 1 || logs[0].Size != 1000 || logs[0].SizeGrowth != 0 || logs[0].Path != c.LogPath || logs[0].Driver != "json-file" {
			t.Fatalf("at the first interval: %+v", logs)
		}
		w.sleep(5 * time.Second)
		if n := len(of[*record.Log](w.out)); n != 1 {
			t.Errorf("%d records of a quiet log, want 1", n)
		}
		sessiontest.Write(t, c.LogPath, 6000)
		w.sleep(time.Second)
		logs = of[*record.Log](w.out)
		if len(logs) != 2 || logs[1].SizeGrowth != 5000 || logs[1].BaselineSize != 1000 {
			t.Errorf("after it grew: %+v", logs)
		}
		sessiontest.Write(t, c.LogPath, 6100)
		w.finish()
		if l := w.lastLayer(); l.Size != 10 || l.SizeGrowth != 0 || l.UnattributedSize != 0 {
			t.Errorf("the log counts into the layer: %+v", l)
		}
		if s := of[*record.Summary](w.out)[0].Containers[0]; s.Log == nil || s.Log.SizeGrowth != 5100 {
			t.Errorf("the summary's log: %+v", s.Log)
		}
	})
}

func TestLogOfALaterContainerIsAllGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := sessiontest.NewContainer(t, "api", nil)
		later := withLog(t, sessiontest.NewContainer(t, "later", nil), 700)
		older := withLog(t, sessiontest.NewContainer(t, "older", nil), 500)
		older.CreatedAt = time.Now().Add(-time.Hour)
		w := run(t, func(cfg *Config, _ *world) { cfg.Select.All = true }, first)
		time.Sleep(time.Millisecond)
		later.CreatedAt = time.Now()
		w.containers.Send(resolver.Found, later)
		w.containers.Send(resolver.Found, older) // renamed to what is watched, say
		w.sleep(time.Second)
		grown := map[string]int64{}
		for _, l := range of[*record.Log](w.out) {
			grown[l.Container.Name] = l.SizeGrowth
		}
		if grown["later"] != 700 || grown["older"] != 0 || len(grown) != 2 {
			t.Errorf("growth: %v, want later 700, older 0", grown)
		}
		// Removed with its files: what was known last is told.
		if err := os.RemoveAll(filepath.Dir(later.LogPath)); err != nil {
			t.Fatal(err)
		}
		w.containers.Send(resolver.Stopped, later)
		w.containers.Send(resolver.Removed, later)
		w.sleep(time.Second)
		w.finish()
		for _, s := range of[*record.Summary](w.out)[0].Containers {
			if s.Container.Name == "later" && (s.Log == nil || s.Log.Size != 700 || s.Log.SizeGrowth != 700) {
				t.Errorf("the log of the removed container: %+v", s.Log)
			}
		}
	})
}
