package main

// What the command prints.

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"
)

func printList(w io.Writer, chosen []defect) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, d := range chosen {
		fmt.Fprintf(t, "%s\t%s\t%s\n", d.name, filepath.Join(d.pkg, d.edits[0].name), d.what)
	}
	_ = t.Flush() // what cannot be printed cannot be complained about either
}

func printTable(w io.Writer, verdicts []verdict) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DEFECT\tCAUGHT BY\tWHAT IT DOES")
	for _, v := range verdicts {
		by := v.by
		switch {
		case v.outcome != caught:
			by = string(v.outcome)
		case v.how != "fails":
			by += " (" + v.how + ")"
		}
		if v.late {
			by += " [not on its list]"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", v.defect.name, by, v.defect.what)
	}
	_ = t.Flush()
}

// summary prints the last line and returns the exit code.
func summary(w io.Writer, verdicts []verdict, took time.Duration) int {
	count := make(map[outcome]int)
	for _, v := range verdicts {
		count[v.outcome]++
	}
	fmt.Fprintf(w, "\n%d defects: %d caught, %d survived, %d could not be tried; %v\n",
		len(verdicts), count[caught], count[survived], count[failed], took.Round(time.Second))
	switch {
	case count[failed] > 0:
		return 2
	case count[survived] > 0:
		return 1
	}
	return 0
}
