package harness

// Target is what plex has to reach in a case.
type Target struct {
	Key     string // of the metric
	Against string // the subject that the figure is divided by; "" for the figure itself
	Limit   float64
	AtLeast bool // otherwise at most
}

// AtMost is a target for the ratio to another subject.
func AtMost(limit float64, against, key string) Target {
	return Target{Key: key, Against: against, Limit: limit}
}

// AtLeast is the same, from below.
func AtLeast(limit float64, against, key string) Target {
	return Target{Key: key, Against: against, Limit: limit, AtLeast: true}
}

// Below is a target for the figure itself.
func Below(limit float64, key string) Target { return Target{Key: key, Limit: limit} }

// Verdict is a target and what came of it.
type Verdict struct {
	Target Target
	Metric Metric
	Figure Spread
	Met    bool // by the median
	Close  bool // the limit lies within the spread, so another run may say otherwise
}

// Verdicts judges r by the targets of its case. A target whose subject was not
// measured has no verdict.
func (r *Result) Verdicts() []Verdict {
	var verdicts []Verdict
	for _, t := range r.Case.Targets {
		var figure Spread
		var ok bool
		if t.Against == "" {
			figure, ok = r.Value(r.Case.Subjects[0].Name, t.Key)
		} else {
			figure, ok = r.Ratio(t.Against, t.Key)
		}
		if !ok {
			continue
		}
		v := Verdict{Target: t, Metric: r.Case.metric(t.Key), Figure: figure}
		v.Met = t.meets(figure.Median)
		v.Close = t.meets(figure.Low) != t.meets(figure.High)
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func (t Target) meets(figure float64) bool {
	if t.AtLeast {
		return figure >= t.Limit
	}
	return figure <= t.Limit
}

// Limit says what the target is.
func (v Verdict) Limit() string {
	sign := "≤ "
	if v.Target.AtLeast {
		sign = "≥ "
	}
	if v.Target.Against == "" {
		return sign + v.Metric.Unit.Format(v.Target.Limit)
	}
	return sign + FormatRatio(v.Target.Limit) + " × " + v.Target.Against
}

// Limits says what the targets of c are, without measuring anything.
func (c *Case) Limits() []string {
	var limits []string
	for _, t := range c.Targets {
		m := c.metric(t.Key)
		limits = append(limits, m.Title+" "+Verdict{Target: t, Metric: m}.Limit())
	}
	return limits
}

// Reached says what the figure is.
func (v Verdict) Reached() string {
	if v.Target.Against == "" {
		return v.Metric.Unit.FormatSpread(v.Figure)
	}
	return v.Figure.String() + " × " + v.Target.Against
}
