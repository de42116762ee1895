package main

import (
	"strings"
	"testing"
)

// A run that booted twice, with a way that passed, one that failed, one that the
// kernel cannot do and one that never ended.
const events = `{"Action":"boot"}
{"Action":"run","Package":"p on 6.1","Test":"TestGone"}
{"Action":"boot"}
not an event
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/write"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/write"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/clone"}
{"Action":"output","Package":"p on 6.1","Test":"TestOneWay/clone","Output":"    x.go:1: n/a: EOPNOTSUPP\n"}
{"Action":"pass","Package":"p on 6.1","Test":"TestOneWay/clone"}
{"Action":"run","Package":"p on 6.1","Test":"TestOneWay/link"}
{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay/link"}
{"Action":"fail","Package":"p on 6.1","Test":"TestOneWay"}
{"Action":"run","Package":"p on 6.1","Test":"TestSkipped"}
{"Action":"output","Package":"p on 6.1","Test":"TestSkipped","Output":"    x.go:1: n/a: no BTF\n"}
{"Action":"skip","Package":"p on 6.1","Test":"TestSkipped"}
{"Action":"run","Package":"p on 6.1","Test":"TestPodman"}
{"Action":"skip","Package":"p on 6.1","Test":"TestPodman"}
{"Action":"run","Package":"p on 6.1","Test":"TestHung"}
`

func TestDocument(t *testing.T) {
	first, second := read([]byte(events)), read([]byte(`{"Action":"run","Package":"p on 7.3","Test":"TestOneWay/only"}
{"Action":"pass","Package":"p on 7.3","Test":"TestOneWay/only"}
{"Action":"run","Package":"m on 7.3","Test":"TestModel"}
{"Action":"output","Package":"m on 7.3","Test":"TestModel","Output":"model: 200 operations (150 without an error) in 10 histories, 90 seconds, kernel 7.3, xfs\n"}
{"Action":"pass","Package":"m on 7.3","Test":"TestModel"}
`))
	first.name, second.name = "6.1-ext4", "newest-xfs"
	got := document([]*column{first, second})
	for _, want := range []string{
		"| 6.1-ext4 | 6.1 | ext4 | 1 | 2 | 2 |\n",
		"| newest-xfs | 7.3 | xfs | 2 | 0 | 0 |\n",
		"| | 6.1 ext4 | newest xfs |\n",
		"| clone | · | ? |\n| link | **≠** | ? |\n| only | ? | = |\n| write | = | ? |\n",
		"| TestHung | **≠** | ? |\n",
		"| TestPodman | ? | ? |\n| TestSkipped | · | ? |\n",
		"| 6.1 | ext4 | 0 | 0 | 0 | 0.0 | ? |\n| 7.3 | xfs | 200 | 150 | 10 | 1.5 | = |\n| **all** |  | 200 | 150 | 10 | 1.5 | ? |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "TestGone") {
		t.Error("a test of the boot before is in the document")
	}
}
