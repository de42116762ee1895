package main

import "strings"

// nearest returns the word that was probably meant by given: one that begins
// with it, or one that at most a third of its letters tell apart. Empty if there
// is none.
func nearest(given string, words []string) string {
	if given == "" {
		return ""
	}
	best, least := "", max(1, len(given)/3)+1
	for _, word := range words {
		d := distance(given, word)
		if len(given) > 1 && strings.HasPrefix(word, given) {
			d = 0
		}
		if d < least {
			best, least = word, d
		}
	}
	return best
}

// distance is how many letters have to be added, taken away, changed or swapped
// with their neighbour to make b of a.
func distance(a, b string) int {
	table := make([][]int, len(a)+1)
	for i := range table {
		table[i] = make([]int, len(b)+1)
		table[i][0] = i
	}
	for j := range table[0] {
		table[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := table[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			least := min(change, table[i-1][j]+1, table[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				least = min(least, table[i-2][j-2]+1)
			}
			table[i][j] = least
		}
	}
	return table[len(a)][len(b)]
}
