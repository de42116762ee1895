//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy stands between layertrace and the daemon, and spoils what that says.
type proxy struct {
	host string

	mu    sync.Mutex
	mode  proxyMode
	conns map[net.Conn]struct{}
}

// proxyMode is what becomes of answers; the zero value leaves them alone. Streams
// that have begun are left alone too.
type proxyMode struct {
	delay   time.Duration // before the answer
	garbage bool          // something else instead
	cut     bool          // its beginning only
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "p.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{host: "unix://" + socket, conns: map[net.Conn]struct{}{}}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker"
		},
		Transport:     env.docker.client.Transport,
		FlushInterval: -1, // events at once
		ErrorLog:      log.New(io.Discard, "", 0),
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(forward, w, r) }),
		ConnState: func(c net.Conn, state http.ConnState) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if state == http.StateClosed || state == http.StateHijacked {
				delete(p.conns, c)
			} else {
				p.conns[c] = struct{}{}
			}
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return p
}

func (p *proxy) set(mode proxyMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
}

// hangUp closes all connections, also of streams.
func (p *proxy) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) serve(forward http.Handler, w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	mode := p.mode
	p.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case mode.delay > 0:
		select {
		case <-time.After(mode.delay):
		case <-r.Context().Done():
			return
		}
	case mode.garbage:
		fmt.Fprint(w, "<html>[]")
		return
	case mode.cut:
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = buffer.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{\"Id\":\"0123")
			_ = buffer.Flush()
			_ = conn.Close()
		}
		return
	}
	// The end of the stream is no error of ours.
	defer func() {
		failed := recover()
		if err, ok := failed.(error); failed != nil && !(ok && errors.Is(err, http.ErrAbortHandler)) {
			panic(failed)
		}
	}()
	forward.ServeHTTP(w, r)
}
