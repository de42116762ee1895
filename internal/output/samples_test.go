package output

import (
	"strings"
	"time"

	"github.com/layertrace/layertrace/internal/record"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 6, time.UTC)

var (
	api = record.Container{ID: strings.Repeat("a", 64), Name: "my-api", Image: "my-api:1.4.0", Runtime: "docker"}
	db  = record.Container{ID: strings.Repeat("b", 64), Name: "db", Image: "postgres:17", Runtime: "docker"}
)

func node(pid uint32) *record.Process {
	return &record.Process{
		PID: pid, ParentPID: 1, Name: "node", Executable: "/usr/bin/node",
		StartTime: noon.Add(-time.Hour), ContainerID: api.ID,
	}
}

func growth(p *record.Process, path string, size, disk int64, causes ...string) *record.Growth {
	g := &record.Growth{
		Header: record.NewHeader(record.TypeGrowth, noon), Container: api, Process: p,
		File:       record.File{Origin: record.OriginAdded, Size: size, Allocated: disk, Inode: 131081},
		Storage:    record.Storage{Class: record.ClassLayer},
		SizeGrowth: size, DiskGrowth: disk, Causes: causes,
	}
	g.File.Path, g.File.PathB64 = record.Text(path)
	if size > 0 && p != nil {
		g.WrittenBytes, g.Writes = uint64(size), 1
	}
	return g
}

// interval is an interval of a lively container.
func interval() []record.Record {
	dockerd := &record.Process{PID: 77, Name: "dockerd", Executable: "/usr/bin/dockerd", StartTime: noon}
	other := &record.Process{PID: 78, Name: "sh", StartTime: noon, ContainerID: db.ID, Exited: true}

	deleted := growth(node(4242), "/tmp/upload", 0, 0, record.CauseDelete)
	deleted.SizeGrowth, deleted.DiskGrowth, deleted.File.Deleted = -5<<20, -5<<20, true
	renamed := growth(node(4242), "/srv/new name", 0, 0, record.CauseRename)
	renamed.File.PreviousPath = "/srv/old"
	whiteout := growth(other, "/etc/motd", 0, 0, record.CauseDelete)
	whiteout.File.Origin, whiteout.File.Deleted, whiteout.File.Inode = record.OriginWhiteout, true, 0
	copied := growth(dockerd, "/usr/lib/x86_64-linux-gnu/libnode.so.115", 40<<20, 40<<20, record.CauseCopyUp)
	copied.CopyUpBytes, copied.WrittenBytes, copied.File.Origin = 40<<20, 0, record.OriginCopiedUp
	unknown := growth(nil, "", 0, 4096, record.CauseUnattributed)
	unknown.File = record.File{}
	incomplete := growth(node(4243), "lost/parent.txt", 12, 0, record.CauseWrite)
	incomplete.File.PathIncomplete = true
	odd := growth(node(4243), "/tmp/\x1b[31mred\n\xff名前", 3000, 4096, record.CauseCreate, record.CauseWrite)
	volume := growth(node(4242), "/data/events/2026/01/02/part-000017.parquet", 1<<20, 0, record.CauseWrite)
	volume.Storage = record.Storage{Class: record.ClassVolume, Destination: "/data", Source: "/var/lib/docker/volumes/data/_data", Name: "data"}
	volume.File.Origin = ""

	return []record.Record{
		copied, deleted,
		growth(node(4242), "/var/log/app/current/access/app.log", 8192, 8192, record.CauseWrite),
		growth(node(4243), "/var/log/app/current/access/app.log", 100, 0, record.CauseWrite, record.CauseTruncate),
		odd, unknown, incomplete, renamed, whiteout, volume,
		layerTotals(api, 1<<30, 1<<30+8192, 36<<20, 36<<20),
		layerTotals(db, 4096, 20480, 0, 0),
	}
}

func layerTotals(c record.Container, size, disk, grown, grownDisk int64) *record.Layer {
	l := &record.Layer{
		Header: record.NewHeader(record.TypeLayer, noon),
		Totals: record.Totals{
			Container: c, Size: size, Allocated: disk, BaselineSize: size - grown, BaselineAllocated: disk - grownDisk,
			SizeGrowth: grown, DiskGrowth: grownDisk,
		},
		Files: 12,
	}
	if c == api {
		l.UnattributedDisk, l.OpenDeletedBytes = 4096, 1<<20
	}
	return l
}

func session() *record.Session {
	return &record.Session{
		Header:  record.NewHeader(record.TypeSession, noon),
		Version: "0.1.0", Host: "host-1", Kernel: "6.1.0-30-amd64",
		Command: []string{"layertrace", "watch", "my-api"}, IntervalMS: 1000,
		Hooks:    []record.Hook{{Name: "vfs_write_exit", Kind: "fexit", Target: "vfs_write"}},
		Coverage: "partial", Reasons: []string{"io_uring is not seen"},
	}
}

func removed() *record.ContainerEvent {
	size, disk := int64(1<<30), int64(1<<30+8192)
	return &record.ContainerEvent{
		Header: record.NewHeader(record.TypeContainer, noon), Event: record.ContainerRemoved, Container: api,
		UpperDir: "/var/lib/docker/overlay2/x/diff", Driver: "overlay2",
		Mounts:   []record.Mount{{Class: record.ClassVolume, Destination: "/data", Name: "data"}},
		LostSize: &size, LostAllocated: &disk,
		LostPaths: []record.PathSize{{Path: "/var/cache/big", Size: 900 << 20, Allocated: 900 << 20}, {Path: "/b", Size: 1, Allocated: 4096}},
	}
}

func logOf(c record.Container) *record.Log {
	return &record.Log{
		Header: record.NewHeader(record.TypeLog, noon), Container: c, Storage: record.Storage{Class: record.ClassLog},
		LogTotals: record.LogTotals{
			Driver: "json-file", Path: "/var/lib/docker/containers/x/x-json.log", Files: 2, Size: 5 << 20, Allocated: 5<<20 + 4096,
			BaselineSize: 2 << 20, BaselineAllocated: 2 << 20, SizeGrowth: 3 << 20, DiskGrowth: 3<<20 + 4096,
		},
	}
}

func losses() []record.Record {
	c := api
	return []record.Record{
		&record.Loss{Header: record.NewHeader(record.TypeLoss, noon), Container: &c, Reason: "table_full", Events: 3, Bytes: 5 << 20},
		&record.Loss{Header: record.NewHeader(record.TypeLoss, noon), Reason: "ring_full", Events: 1},
	}
}

func summary() *record.Summary {
	return &record.Summary{
		Header: record.NewHeader(record.TypeSummary, noon),
		Containers: []record.ContainerSummary{
			{
				Totals: record.Totals{
					Container: api, Size: 1 << 30, Allocated: 1<<30 + 8192, BaselineSize: 1<<30 - 36<<20, BaselineAllocated: 1<<30 - 36<<20,
					SizeGrowth: 36 << 20, DiskGrowth: 36<<20 + 8192, WrittenBytes: 50 << 20, CopyUpBytes: 40 << 20,
					UnattributedDisk: 4096, OpenDeletedBytes: 1 << 20, FilteredSizeGrowth: 100,
				},
				TopFiles: []record.TopFile{
					{Path: "/usr/lib/libnode.so.115", SizeGrowth: 40 << 20, DiskGrowth: 40 << 20},
					{Path: "/var/log/app.log", SizeGrowth: 8192, DiskGrowth: 8192, WrittenBytes: 8192},
				},
				TopProcesses: []record.TopProcess{
					{Name: "dockerd", Executable: "/usr/bin/dockerd", Processes: 1, SizeGrowth: 40 << 20, DiskGrowth: 40 << 20},
					{Name: "node", Executable: "/usr/bin/node", Processes: 2, SizeGrowth: -4 << 20, DiskGrowth: -4 << 20, WrittenBytes: 8192},
				},
				Covered: []record.CoveredTotal{
					{Storage: record.Storage{Class: record.ClassVolume, Destination: "/data", Name: "data"}, SizeGrowth: 1 << 20, WrittenBytes: 3 << 20},
					{Storage: record.Storage{Class: record.ClassTmpfs, Destination: "/run"}, WrittenBytes: 17},
				},
			},
			{
				Totals:  record.Totals{Container: db, Size: 4096, Allocated: 20480, BaselineSize: 8192, BaselineAllocated: 20480, SizeGrowth: -4096},
				Removed: true, TopFiles: []record.TopFile{}, TopProcesses: []record.TopProcess{},
			},
		},
		Unlisted:   &record.Unlisted{Containers: 2, SizeGrowth: 5, DiskGrowth: 8192},
		Losses:     []record.LossTotal{{Reason: "table_full", Events: 3, Bytes: 5 << 20}, {Reason: "ring_full", Events: 1}},
		DurationMS: 61500, Ended: record.EndedSignal,
	}
}

// stream is a run with every type of record.
func stream() []record.Record {
	recs := []record.Record{session()}
	recs = append(recs, interval()...)
	recs = append(recs, losses()...)
	return append(recs, logOf(api), removed(), summary())
}
