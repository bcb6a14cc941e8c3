package engine

// Engine decides for any number of volumes. One goroutine owns it.
type Engine struct {
	volumes map[string]*VolumeState
}

// NewEngine returns an engine that knows of no volume.
func NewEngine() *Engine { return &Engine{volumes: map[string]*VolumeState{}} }

// Result is what became of an event: what there is to do, and what its volume is now.
type Result struct {
	Commands   []Command // in the order in which they are to be carried out
	Mode       Mode
	ModeReason string
	Healthy    bool
	Ignored    string // why the event changed nothing, in words, or ""
}

// ApplyEvent takes in one fact. It always succeeds: an event that says nothing, or cannot be true, changes nothing.
func (e *Engine) ApplyEvent(event Event) Result {
	if event == nil {
		return Result{Mode: ModeAllocatedOnly, Ignored: "there is no event"}
	}
	v, ok := e.volumes[event.volume()]
	if !ok {
		v = newVolumeState(event.volume())
	}
	commands, ignored := event.apply(v)
	if ignored == "" {
		e.volumes[v.VolumeID] = v
		commands = append(commands, v.publish(ok)...)
	}
	return Result{Commands: commands, Mode: v.Mode, ModeReason: v.ModeReason, Healthy: v.Healthy, Ignored: ignored}
}

// publish brings the projection up to date, and returns the command to publish it where that is news. Of a volume that
// was not known it always is.
func (v *VolumeState) publish(known bool) []Command {
	mode, reason := project(v)
	if known && mode == v.Mode && reason == v.ModeReason {
		return nil
	}
	v.Mode, v.ModeReason, v.Healthy = mode, reason, mode == ModePublishHealthy
	return []Command{PublishProjectionCommand{
		VolumeID: v.VolumeID, Epoch: v.Epoch, Mode: v.Mode, Reason: v.ModeReason, Healthy: v.Healthy,
	}}
}

// Volume returns a copy of what is known of a volume, and whether anything is.
func (e *Engine) Volume(id string) (VolumeState, bool) {
	v, ok := e.volumes[id]
	if !ok {
		return VolumeState{}, false
	}
	return v.clone(), true
}
