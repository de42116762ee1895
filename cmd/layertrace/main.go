// Command layertrace shows which processes make which paths of a container's
// writable layer grow, live, and by exactly how much.
package main

import (
	"context"
	"os"
)

func main() {
	os.Exit(run(context.Background(), systemEnv(), os.Args[1:]))
}

// run executes the command line args (without the program's name) and returns
// the exit code. It is the only place that prints an error.
func run(ctx context.Context, env *env, args []string) int {
	root := newRoot(env, args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	f := failureOf(err)
	f.print(env.stderr)
	return f.code
}
