//go:build linux

package e2e

import (
	"fmt"
	"strings"

	"github.com/layertrace/layertrace/internal/record"
)

const mib = 1 << 20

// img is the size of an image file, as a path's growth by copying it up.
func img(name string) int64 { return int64(imageFiles[name]) }

// waysToWrite are ways to write into files.
var waysToWrite = []way{
	{name: "write", do: "write path=@ size=100000 chunk=1000", size: m("@", 100_000), disk: m("@", 102_400), written: 100_000, writes: 100, causes: "write create", origin: record.OriginAdded},
	{name: "pwrite", do: "pwrite path=@ size=5000 offset=3000", size: m("@", 8000), disk: m("@", 8192), written: 5000, writes: 1, causes: "write create"},
	{name: "writev", do: "writev path=@ size=30000 chunk=3000", size: m("@", 30_000), disk: m("@", 32_768), written: 30_000, writes: 10, causes: "write create"},
	{name: "pwritev", do: "writev kind=pwritev path=@ size=30000 chunk=3000", size: m("@", 30_000), written: 30_000, writes: 10, causes: "write create"},
	{name: "pwritev2", do: "writev kind=pwritev2 path=@ size=30000 chunk=3000", size: m("@", 30_000), written: 30_000, writes: 10, causes: "write create"},
	{name: "append", prep: "write path=@ size=5000", do: "append path=@ size=700 chunk=100", size: m("@", 700), disk: m("@", 0), written: 700, writes: 7, causes: "write", origin: record.OriginAdded},
	{name: "rewrite", prep: "write path=@ size=65536", do: "rewrite path=@ size=4096 count=51", size: m("@", 0), disk: m("@", 0), written: 51 * 4096, writes: 51, causes: "write"},
	{name: "overwrite", prep: "write path=@ size=10000", do: "overwrite path=@ size=300", size: m("@", -9700), disk: m("@", -8192), written: 300, writes: 1, causes: "truncate write"},
	{name: "aio", do: "aio path=@ size=1048576", size: m("@", mib), disk: m("@", mib), written: mib, causes: "write create"},
	{name: "aio-direct", do: "aio path=@ size=1048576 direct=1", size: m("@", mib), written: mib, causes: "write create"},
	// These may end in another context than that of the process.
	{name: "aio-over", prep: "write path=@ size=1048576 then sync path=@", do: "aio path=@ size=1048576 chunk=4096 direct=1", size: m("@", 0), disk: m("@", 0), written: mib, writes: 256, causes: "write"},
	{name: "uring-d-over", prep: "write path=@ size=1048576 then sync path=@", do: "uring path=@ size=1048576 chunk=4096 direct=1", size: m("@", 0), disk: m("@", 0), written: mib, writes: 256, causes: "write"},
	{name: "uring", do: "uring path=@ size=1048576", size: m("@", mib), disk: m("@", mib), written: mib, causes: "write create"},
	{name: "uring-sqpoll", do: "uring path=@ size=262144 sqpoll=1", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write create"},
	{name: "uring-d-sqp", do: "uring path=@ size=262144 sqpoll=1 direct=1", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write create"},
	{name: "uring-falloc", do: "uring kind=fallocate path=@ size=131072", size: m("@", 131_072), disk: m("@", 131_072), causes: "allocate create"},
	// The offset is that of the end, since overlayfs lost the flag until 6.7.
	{name: "rwf-append", prep: "write path=@ size=5000", do: "writev kind=pwritev2 flags=append path=@ offset=5000 size=3000 chunk=3000", size: m("@", 3000), disk: m("@", 0), written: 3000, writes: 1, causes: "write"},
	{name: "rwf-append-0", prep: "write path=@ size=5000", do: "writev kind=pwritev2 flags=append path=@ offset=0 size=3000 chunk=3000", size: m("@", 3000), disk: m("@", 0), written: 3000, writes: 1, causes: "write"},
	{name: "rwf-dsync", do: "writev kind=pwritev2 flags=dsync path=@ size=30000 chunk=15000", size: m("@", 30_000), disk: m("@", 32_768), written: 30_000, writes: 2, causes: "write create"},
	{name: "o-sync", do: "write flags=sync path=@ size=20000 chunk=5000", size: m("@", 20_000), disk: m("@", 20_480), written: 20_000, writes: 4, causes: "write create"},
	{name: "o-direct", do: "write flags=direct path=@ size=131072 chunk=32768", size: m("@", 131_072), disk: m("@", 131_072), written: 131_072, writes: 4, causes: "write create"},
	{name: "append-direct", prep: "write path=@ size=8192 then sync path=@", do: "append flags=direct|dsync path=@ size=65536 chunk=32768", size: m("@", 65_536), disk: m("@", 65_536), written: 65_536, writes: 2, causes: "write"},
	{name: "direct-over", prep: "write path=@ size=131072", do: "write flags=direct|dsync path=@ size=131072 chunk=32768", size: m("@", 0), disk: m("@", 0), written: 131_072, writes: 4, causes: "write"},

	// Less than was asked for.
	{name: "short-write", do: "limit size=5000 then write path=@ size=8000 chunk=8000 errno=EFBIG", size: m("@", 5000), disk: m("@", 8192), written: 5000, writes: 1, causes: "write create"},
	{name: "no-write", prep: "write path=@ size=5000", do: "limit size=5000 then append path=@ size=100 errno=EFBIG", size: m("@", 0), disk: m("@", 0)},
	{name: "no-truncate", prep: "create path=@", do: "limit size=5000 then ftruncate path=@ size=5001 errno=EFBIG", size: m("@", 0), disk: m("@", 0)},
	// The file system may have allocated more than it could fill.
	{name: "torn", do: "torn path=@ size=8192 errno=EFAULT", size: m("@", 8192), written: 8192, causes: "write create", needs: tearing},

	{name: "uring-fixed", do: "uring kind=fixed path=@ size=131072 chunk=16384", size: m("@", 131_072), disk: m("@", 131_072), written: 131_072, writes: 8, causes: "write create"},
	{name: "uring-linked", do: "uring kind=linked path=@ size=524288", size: m("@", 524_288), disk: m("@", 524_288), written: 524_288, writes: 8, causes: "write create"},
	{name: "uring-async", do: "uring async=1 path=@ size=262144", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write create"},
	{name: "uring-direct", do: "uring direct=1 path=@ size=262144", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write create"},
	{name: "uring-d-async", do: "uring direct=1 async=1 path=@ size=262144", size: m("@", 262_144), disk: m("@", 262_144), written: 262_144, causes: "write create"},
	{name: "uring-splice", prep: "write path=@.src size=300000", do: "uring kind=splice from=@.src path=@", size: m("@", 300_000), disk: m("@", 303_104), written: 300_000, causes: "write create"},

	// From file to file.
	{name: "copyrange", prep: "write path=@.src size=300000", do: "copyrange from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write clone? create"},
	{name: "sendfile", prep: "write path=@.src size=300000", do: "sendfile from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write create"},
	{name: "splice", prep: "write path=@.src size=300000", do: "splice from=@.src path=@", size: m("@", 300_000), written: 300_000, causes: "write create"},
	{name: "vmsplice", do: "vmsplice path=@ size=300000", size: m("@", 300_000), disk: m("@", 303_104), written: 300_000, causes: "write create"},
	{name: "clone", prep: "write path=@.src size=65536", do: "clone from=@.src path=@ errno=EOPNOTSUPP|EINVAL", size: m("@", 65_536), disk: m("@", 65_536), causes: "clone create", needs: sharing},
	{name: "clone-range", prep: "write path=@.src size=65536", do: "clone from=@.src path=@ offset=8192 size=16384 errno=EOPNOTSUPP|EINVAL", size: m("@", 24_576), disk: m("@", 16_384), causes: "clone create", needs: sharing},
	{name: "clone-over", prep: "write path=@.src size=65536 then write path=@ size=98304 then sync path=@", do: "clone from=@.src path=@ errno=EOPNOTSUPP|EINVAL", size: m("@", 0), disk: m("@", 0), causes: "clone", needs: sharing},
	{name: "clone-up", prep: "write path=@.src size=65536", do: "clone from=@.src path=/img/clone errno=EOPNOTSUPP|EINVAL", path: "/img/clone", size: m("/img/clone", 65_536), copyUp: img("clone"), causes: "copy_up clone?", needs: sharing},
	{name: "dedupe", prep: "write path=@.src size=65536 then write path=@ size=65536", do: "dedupe from=@.src path=@ errno=EOPNOTSUPP|EINVAL", size: m("@", 0), disk: m("@", 0), needs: sharing},
}

// waysToSize change size or blocks without writing.
var waysToSize = []way{
	{name: "trunc-up", prep: "create path=@", do: "truncate path=@ size=1048576", size: m("@", mib), disk: m("@", 0), causes: "truncate"},
	{name: "trunc-down", prep: "write path=@ size=50000", do: "truncate path=@ size=20000", size: m("@", -30_000), disk: m("@", 20_480-53_248), causes: "truncate"},
	{name: "ftruncate", do: "ftruncate path=@ size=4097", size: m("@", 4097), disk: m("@", 0), causes: "truncate create"},
	{name: "ftrunc-down", prep: "write path=@ size=50000", do: "ftruncate path=@ size=100", size: m("@", -49_900), disk: m("@", 4096-53_248), causes: "truncate"},
	{name: "o-trunc", prep: "write path=@ size=50000", do: "overwrite path=@ size=0", size: m("@", -50_000), disk: m("@", -53_248), causes: "truncate"},
	// What was allocated beyond the end goes when the size is set, to whatever.
	{name: "trunc-same", prep: "write path=@ size=100 then fallocate kind=keep path=@ size=65536", do: "truncate path=@ size=100", size: m("@", 0), disk: m("@", -61_440), causes: "truncate"},
	{name: "fallocate", do: "fallocate path=@ size=1048576", size: m("@", mib), disk: m("@", mib), causes: "allocate create"},
	{name: "falloc-keep", prep: "write path=@ size=100", do: "fallocate kind=keep path=@ size=65536", size: m("@", 0), disk: m("@", 61_440), causes: "allocate"},
	{name: "punch", prep: "write path=@ size=262144", do: "fallocate kind=punch path=@ offset=65536 size=65536", size: m("@", 0), disk: m("@", -65_536), causes: "allocate"},
	{name: "zero-range", do: "fallocate kind=zero path=@ size=65536 errno=EOPNOTSUPP", size: m("@", 65_536), disk: m("@", 65_536), causes: "allocate create", needs: zeroing},
	{name: "zero-keep", prep: "write path=@ size=100", do: "fallocate kind=zerokeep path=@ offset=4096 size=61440 errno=EOPNOTSUPP", size: m("@", 0), disk: m("@", 61_440), causes: "allocate", needs: zeroing},
	{name: "collapse", prep: "write path=@ size=65536", do: "fallocate kind=collapse path=@ offset=4096 size=8192 errno=EOPNOTSUPP", size: m("@", -8192), disk: m("@", -8192), causes: "allocate", needs: shifting},
	{name: "insert", prep: "write path=@ size=65536", do: "fallocate kind=insert path=@ offset=4096 size=8192 errno=EOPNOTSUPP", size: m("@", 8192), disk: m("@", 0), causes: "allocate", needs: shifting},
	{name: "mmap", prep: "create path=@ then truncate path=@ size=65536", do: "mmap path=@ size=65536", size: m("@", 0), disk: m("@", 65_536), causes: "mmap"},
	{name: "mmap-sync", prep: "create path=@ then truncate path=@ size=65536", do: "mmap path=@ size=65536 sync=1", size: m("@", 0), disk: m("@", 65_536), causes: "mmap"},
	{name: "mmap-closed", prep: "create path=@ then truncate path=@ size=65536", do: "map path=@ size=65536 then store path=@ offset=32768 size=16384 then unmap path=@", size: m("@", 0), disk: m("@", 16_384), causes: "mmap"},
	{name: "mmap-again", prep: "write path=@ size=65536", do: "mmap path=@ size=65536", size: m("@", 0), disk: m("@", 0)},
	{name: "mmap-private", prep: "create path=@ then truncate path=@ size=65536", do: "mmap kind=private path=@ size=65536", size: m("@", 0), disk: m("@", 0)},
}

// waysToName make, move and remove names.
var waysToName = []way{
	{name: "create", do: "create path=@", size: m("@", 0), disk: m("@", 0), causes: "create", origin: record.OriginAdded},
	{name: "mkdir", do: "mkdir path=@", size: m("@", 0), disk: m("@", 4096), causes: "create", origin: record.OriginDirectory},
	{name: "rmdir", prep: "mkdir path=@", do: "rmdir path=@", size: m("@", 0), disk: m("@", -4096), causes: "delete", origin: record.OriginDirectory, deleted: true},
	{name: "symlink", do: "symlink target=twenty-bytes-of-text path=@", size: m("@", 20), disk: m("@", 0), causes: "create", origin: record.OriginAdded},
	{name: "symlink-long", do: "symlink target=/" + strings.Repeat("x", 99) + " path=@", size: m("@", 100), disk: m("@", 4096), causes: "create"},
	{name: "fifo", do: "fifo path=@", size: m("@", 0), disk: m("@", 0), causes: "create"},
	{name: "socket", do: "socket path=@", size: m("@", 0), disk: m("@", 0), causes: "create"},
	{name: "link", prep: "write path=@.src size=5000", do: "link from=@.src path=@", size: m("@|@.src", 0)},
	{name: "rename", prep: "write path=@.old size=100", do: "rename from=@.old path=@ then append path=@ size=10", size: m("@", 10), written: 10, causes: "rename write"},
	{name: "exchange", prep: "write path=@ size=100 then write path=@.2 size=200", do: "rename kind=exchange from=@ path=@.2 then append path=@ size=10 then append path=@.2 size=20", size: m("@", 10, "@.2", 20), written: 30, causes: "rename write"},
	{name: "exchange-link", prep: "write path=@.1 size=100 then link from=@.1 path=@.1b then write path=@.2 size=200 then link from=@.2 path=@.2b", do: "rename kind=exchange from=@.1 path=@.2 then unlink path=@.2 then append path=@.1b size=10 then unlink path=@.1 then append path=@.2b size=20", path: "@.1b", size: m("@.1b|@.2", 10, "@.2b|@.1", 20), written: 30, causes: "write delete rename"},
	{name: "rename-over", prep: "write path=@ size=5000 then write path=@.new size=300", do: "rename from=@.new path=@", size: m("@", -5000), disk: m("@|@.new", -8192), causes: "delete rename", deleted: true},
	{name: "unlink", prep: "write path=@ size=7000", do: "unlink path=@", size: m("@", -7000), disk: m("@", -8192), causes: "delete", deleted: true},
	{name: "unlink-linked", prep: "write path=@.2 size=7000 then link from=@.2 path=@", do: "unlink path=@.2 then append path=@ size=5 then unlink path=@", size: m("@|@.2", -7000), disk: m("@|@.2", -8192), written: 5, causes: "delete write", deleted: true},
	{name: "rename-linked", prep: "write path=@.1 size=7000 then link from=@.1 path=@.2", do: "rename from=@.2 path=@ then append path=@ size=5 then unlink path=@.1 then append path=@ size=6", path: "@.1|@", size: m("@.1|@", 11), disk: m("@.1|@", 0), written: 11, causes: "write create delete rename"},
	{name: "tmpfile", do: "tmpfile dir=/w path=@ size=5000 errno=EOPNOTSUPP", size: m("@", 5000), disk: m("@", 8192), written: 5000, causes: "write create", needs: nameless},
	{name: "tmpfile-lost", do: "tmpfile dir=/w size=5000 errno=EOPNOTSUPP then create path=@", size: m("@", 0), written: 5000, causes: "create", needs: nameless},
	{name: "mknod", do: "mknod path=@ major=1 minor=3", size: m("@", 0), disk: m("@", 0), causes: "create", origin: record.OriginAdded},
	{name: "mknod-block", do: "mknod kind=block path=@ major=7 minor=0", size: m("@", 0), disk: m("@", 0), causes: "create"},
	// It would be a whiteout.
	{name: "mknod-refused", do: "mknod path=@ major=0 minor=0 errno=EPERM", size: m("@", 0)},
	{name: "noreplace", prep: "write path=@.old size=100", do: "rename kind=noreplace from=@.old path=@ then append path=@ size=10", size: m("@", 10), written: 10, causes: "rename write"},
	{name: "name-taken", prep: "write path=@.old size=100 then write path=@ size=200", do: "rename kind=noreplace from=@.old path=@ errno=EEXIST", size: m("@", 0, "@.old", 0), disk: m("@", 0, "@.old", 0)},
	{name: "rename-dir", prep: "mkdir path=@.old then write path=@.old/f size=100", do: "rename from=@.old path=@ then append path=@/f size=10", path: "@/f", size: m("@/f", 10), written: 10, causes: "write"},
	{name: "dir-over-dir", prep: "mkdir path=@ then mkdir path=@.new", do: "rename from=@.new path=@", size: m("@|@.new", 0), disk: m("@|@.new", -4096), causes: "delete rename metadata?", origin: record.OriginDirectory, deleted: true},
	{name: "uring-rename", prep: "write path=@.old size=100", do: "uring kind=rename from=@.old path=@ then append path=@ size=10", size: m("@", 10), written: 10, causes: "rename write"},
	{name: "uring-unlink", prep: "write path=@ size=7000", do: "uring kind=unlink path=@", size: m("@", -7000), disk: m("@", -8192), causes: "delete", deleted: true},
}

// waysToMark change attributes.
var waysToMark = []way{
	{name: "setxattr", prep: "create path=@", do: "setxattr path=@ size=2000", size: m("@", 0), disk: m("@", 4096), causes: "metadata"},
	{name: "removexattr", prep: "create path=@ then setxattr path=@ size=2000", do: "removexattr path=@", size: m("@", 0), disk: m("@", -4096), causes: "metadata"},
	// All that fits into the one block that ext4 has for attributes, and more.
	{name: "xattr-large", prep: "create path=@", do: "setxattr path=@ size=3900", size: m("@", 0), disk: m("@", 4096), causes: "metadata"},
	{name: "xattr-refused", prep: "create path=@", do: "setxattr path=@ size=8000 errno=ENOSPC", size: m("@", 0), disk: m("@", 0)},
	{name: "xattr-huge", prep: "create path=@", do: "setxattr path=@ size=60000 errno=ENOSPC", size: m("@", 0), disk: m("@", 0)},
	// Files with the same attributes may share that block.
	{name: "xattr-shared", prep: "create path=@.1 then setxattr path=@.1 size=1900 then create path=@.2", do: "setxattr path=@.2 size=1900 then removexattr path=@.1", path: "@.1", size: m("@.1", 0, "@.2", 0), disk: m("@.1", -4096, "@.2", 4096), causes: "metadata"},
	{name: "xattr-dir", prep: "mkdir path=@", do: "setxattr path=@ size=2000", size: m("@", 0), disk: m("@", 4096), causes: "metadata", origin: record.OriginDirectory},
	{name: "acl", prep: "write path=@ size=10", do: "setacl path=@ entries=40", size: m("@", 0), disk: m("@", 4096), causes: "metadata"},
	{name: "acl-removed", prep: "write path=@ size=10 then setacl path=@ entries=40", do: "removexattr path=@ name=system.posix_acl_access", size: m("@", 0), disk: m("@", -4096), causes: "metadata"},
	{name: "acl-inherited", prep: "mkdir path=@ then setacl kind=default path=@ entries=40", do: "create path=@/f", path: "@/f", size: m("@/f", 0), disk: m("@", 0, "@/f", 4096), causes: "create"},
	// Also what stays behind where a file of the image was.
	{name: "acl-whiteout", prep: "setacl kind=default path=/img/dirs/whiteout entries=40", do: "rename from=/img/dirs/whiteout/f path=@", path: "/img/dirs/whiteout/f", size: m("/img/dirs/whiteout/f|@", imageDirFile), disk: m("/img/dirs/whiteout/f|@", 8192), copyUp: imageDirFile, causes: "rename"},
	{name: "acl-wh-filled", prep: "setacl kind=default path=/img/dirs/filled entries=40 then rename from=/img/dirs/filled/f path=@", do: "write path=/img/dirs/filled/f size=10 then unlink path=/img/dirs/filled/f", path: "/img/dirs/filled/f", size: m("/img/dirs/filled/f", 0), disk: m("/img/dirs/filled/f", -4096), written: 10, causes: "delete write create"},
	{name: "attributes", prep: "write path=@ size=10", do: "chmod path=@ then chown path=@ then utimes path=@", size: m("@", 0), disk: m("@", 0)},
}

// waysToCopyUp change files of the image, which are copied up by whoever is about
// to do so, or remove them.
var waysToCopyUp = []way{
	{name: "up-open", do: "open path=/img/open", path: "/img/open", size: m("/img/open", img("open")), disk: m("/img/open", 12_288), copyUp: img("open"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-append", do: "append path=/img/append size=92", path: "/img/append", size: m("/img/append", img("append")+92), written: 92, copyUp: img("append"), causes: "copy_up write", origin: record.OriginCopiedUp},
	{name: "up-rewrite", do: "rewrite path=/img/rewrite size=1", path: "/img/rewrite", size: m("/img/rewrite", img("rewrite")), written: 1, writes: 1, copyUp: img("rewrite"), causes: "copy_up write", origin: record.OriginCopiedUp},
	{name: "up-mmap", do: "mmap path=/img/mmap size=8192", path: "/img/mmap", size: m("/img/mmap", img("mmap")), copyUp: img("mmap"), causes: "copy_up mmap?", origin: record.OriginCopiedUp},
	{name: "up-chmod", do: "chmod path=/img/chmod", path: "/img/chmod", size: m("/img/chmod", img("chmod")), copyUp: img("chmod"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-chown", do: "chown path=/img/chown", path: "/img/chown", size: m("/img/chown", img("chown")), copyUp: img("chown"), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-chown-blob", do: "chown path=/usr/share/data/blob", path: "/usr/share/data/blob", size: m("/usr/share/data/blob", blobSize), copyUp: blobSize, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-utimes", do: "utimes path=/img/utimes", path: "/img/utimes", size: m("/img/utimes", img("utimes")), copyUp: img("utimes"), causes: "copy_up"},
	{name: "up-setxattr", do: "setxattr path=/img/setxattr size=10", path: "/img/setxattr", size: m("/img/setxattr", img("setxattr")), copyUp: img("setxattr"), causes: "copy_up metadata?"},
	{name: "up-truncate", do: "truncate path=/img/truncate size=4000", path: "/img/truncate", size: m("/img/truncate", 4000), disk: m("/img/truncate", 4096), copyUp: -1, causes: "copy_up truncate?", origin: record.OriginCopiedUp},
	{name: "up-overwrite", do: "overwrite path=/img/otrunc size=123", path: "/img/otrunc", size: m("/img/otrunc", 123), disk: m("/img/otrunc", 4096), written: 123, copyUp: -1, causes: "copy_up truncate? write", origin: record.OriginCopiedUp},
	{name: "up-rename", do: "rename from=/img/rename path=@", size: m("/img/rename|@", img("rename")), copyUp: img("rename"), causes: "copy_up? rename"},
	{name: "up-link", do: "link from=/img/link path=@", path: "/img/link|@", size: m("/img/link|@", img("link")), copyUp: img("link"), causes: "copy_up create"},
	{name: "over-image", prep: "write path=@.new size=500", do: "rename from=@.new path=/img/over then append path=/img/over size=1", path: "/img/over", size: m("/img/over", 1), written: 1, causes: "write rename"},
	{name: "del-image", do: "unlink path=/img/unlink", path: "/img/unlink", size: m("/img/unlink", 0), causes: "delete", origin: record.OriginWhiteout},
	{name: "rmdir-image", do: "rmdir path=/img/emptydir", path: "/img/emptydir", size: m("/img/emptydir", 0), causes: "delete", origin: record.OriginWhiteout},
	{name: "rm-image-dir", do: "removeall path=/img/dir", path: "/img/dir", size: m("/img/dir", 0), causes: "delete copy_up?", origin: record.OriginWhiteout},
	{name: "recreate", do: "unlink path=/img/sed then write path=/img/sed size=77", path: "/img/sed", size: m("/img/sed", 77), written: 77, causes: "write create", origin: record.OriginAdded},
	// There is nothing to be removed, and so nothing to be copied.
	{name: "no-rmxattr", do: "removexattr path=/img/no-xattr errno=ENODATA", path: "/img/no-xattr", size: m("/img/no-xattr", 0)},
	{name: "up-empty", do: "utimes path=/img/empty", path: "/img/empty", size: m("/img/empty", 0), causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-symlink", do: "chown path=/img/symlink", path: "/img/symlink", size: m("/img/symlink", 21), copyUp: 21, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-acl", do: "setacl path=/img/acl entries=40", path: "/img/acl", size: m("/img/acl", img("acl")), disk: m("/img/acl", 12_288+4096), copyUp: img("acl"), causes: "copy_up metadata?", origin: record.OriginCopiedUp},
	{name: "up-uring", do: "uring path=/img/uring size=1", path: "/img/uring", size: m("/img/uring", img("uring")), written: 1, copyUp: img("uring"), causes: "copy_up write", origin: record.OriginCopiedUp},
	// Overlayfs looks for holes before it copies.
	{name: "up-sparse", do: "chmod path=/img/sparse", path: "/img/sparse", size: m("/img/sparse", sparseSize), disk: m("/img/sparse", sparseData), copyUp: sparseSize, causes: "copy_up", origin: record.OriginCopiedUp},
	// The two names become two files.
	{name: "up-hard-link", do: "chmod path=/img/hard/a then chmod path=/img/hard/b", path: "/img/hard/a", size: m("/img/hard/a", hardSize, "/img/hard/b", hardSize), disk: m("/img/hard/a", 12_288, "/img/hard/b", 12_288), copyUp: 2 * hardSize, causes: "copy_up", origin: record.OriginCopiedUp},
	{name: "up-exchange", prep: "write path=@ size=200", do: "rename kind=exchange from=/img/exchange path=@", size: m("/img/exchange|@", img("exchange")), copyUp: img("exchange"), causes: "copy_up? rename"},
	{name: "up-replace", do: "rename from=/img/replaces path=/img/replaced", path: "/img/replaces|/img/replaced", size: m("/img/replaces|/img/replaced", img("replaces")), copyUp: img("replaces"), causes: "copy_up? rename"},
	{name: "up-unlink", do: "chmod path=/img/chmod-unlink then unlink path=/img/chmod-unlink", path: "/img/chmod-unlink", size: m("/img/chmod-unlink", 0), copyUp: img("chmod-unlink"), causes: "delete copy_up"},
	{name: "up-dir-chmod", do: "chmod path=/img/dirs/chmod mode=0700", path: "/img/dirs/chmod", size: m("/img/dirs/chmod", 0), causes: "copy_up", origin: record.OriginDirectory},
	{name: "up-dir-chown", do: "chown path=/img/dirs/chown", path: "/img/dirs/chown", size: m("/img/dirs/chown", 0), causes: "copy_up", origin: record.OriginDirectory},
	{name: "up-dir-utimes", do: "utimes path=/img/dirs/utimes", path: "/img/dirs/utimes", size: m("/img/dirs/utimes", 0), causes: "copy_up", origin: record.OriginDirectory},
	{name: "up-dir-xattr", do: "setxattr path=/img/dirs/setxattr size=2000", path: "/img/dirs/setxattr", size: m("/img/dirs/setxattr", 0), disk: m("/img/dirs/setxattr", 8192), causes: "copy_up metadata?", origin: record.OriginDirectory},
	{name: "up-dir-acl", do: "setacl path=/img/dirs/setacl entries=40", path: "/img/dirs/setacl", size: m("/img/dirs/setacl", 0), disk: m("/img/dirs/setacl", 8192), causes: "copy_up metadata?", origin: record.OriginDirectory},
	{name: "up-parents", do: "mkdir path=/img/dirs/deep/a/b/c/new", path: "/img/dirs/deep/a/b/c", size: m("/img/dirs/deep/a/b/c", 0), disk: m("/img/dirs/deep/a/b/c/new", 4096), causes: "copy_up", origin: record.OriginDirectory},
	// Without redirects a directory of the image cannot be moved.
	{name: "move-dir", do: "rename from=/img/dirs/moved path=@ errno=EXDEV", size: m("/img/dirs/moved|@", 0)},
	{name: "opaque", do: "removeall path=/img/dirs/opaque then mkdir path=/img/dirs/opaque then write path=/img/dirs/opaque/new size=50", path: "/img/dirs/opaque", size: m("/img/dirs/opaque/new", 50), disk: m("/img/dirs/opaque", 4096, "/img/dirs/opaque/new", 4096), written: 50, causes: "create copy_up delete"},
	{name: "reuse-dir", do: "rmdir path=/img/dirs/empty-reused then write path=/img/dirs/empty-reused size=9", path: "/img/dirs/empty-reused", size: m("/img/dirs/empty-reused", 9), written: 9, causes: "write create", origin: record.OriginAdded},
}

// m makes a map of paths and numbers.
func m(pairs ...any) map[string]int64 {
	out := map[string]int64{}
	for i := 0; i < len(pairs); i += 2 {
		switch n := pairs[i+1].(type) {
		case int:
			out[pairs[i].(string)] = int64(n)
		case int64:
			out[pairs[i].(string)] = n
		default:
			panic(fmt.Sprintf("m: %T is no number", n))
		}
	}
	return out
}
