package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/BurntSushi/toml"

	"lockstep/node"
)

// defaultConfigFile is read where it exists and no other file is named.
const defaultConfigFile = "/etc/lockstep/lockstep.toml"

// fileEntry is one key of a configuration file.
type fileEntry struct {
	line  int // 0 where it is not known
	value any
}

// setFromFile sets what the configuration file has.
func (c *config) setFromFile() error {
	name := c.options.configFile
	content, err := readConfigFile(name)
	if errors.Is(err, fs.ErrNotExist) && c.origins["config"].source == sourceDefault {
		c.options.configFile = ""
		return nil
	}
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	entries, err := decodeConfigFile(content)
	if err != nil {
		return inConfigFile(name, err)
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		e := entries[key]
		from := origin{sourceFile, fmt.Sprintf("%s:%d", name, e.line)}
		s, err := settingOfKey(key)
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		texts, err := fileTexts(s.value(&c.options), e.value)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", from, key, err)
		}
		if err := c.set(s, from, texts); err != nil {
			return err
		}
	}
	return nil
}

// readConfigFile returns the content of a file; an empty name, and /dev/null, have none.
func readConfigFile(name string) ([]byte, error) {
	if name == "" || name == os.DevNull {
		return nil, nil
	}
	return node.ReadRegular(name)
}

// inConfigFile says where in the file an error of the decoder is.
func inConfigFile(name string, err error) error {
	var p toml.ParseError
	if errors.As(err, &p) {
		if p.LastKey != "" {
			return fmt.Errorf("%s:%d: %s (the last key is %s)", name, p.Position.Line, p.Message, p.LastKey)
		}
		return fmt.Errorf("%s:%d: %s", name, p.Position.Line, p.Message)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// decodeConfigFile returns what a file has. What is no TOML, a key that comes twice included, is a toml.ParseError.
func decodeConfigFile(content []byte) (map[string]fileEntry, error) {
	var raw map[string]toml.Primitive
	meta, err := toml.Decode(string(content), &raw)
	if err != nil {
		return nil, err
	}
	entries := map[string]fileEntry{}
	for key, p := range raw {
		if entries[key], err = takeEntry(meta, p); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// takeEntry returns a value with its line. A table that no line of its own begins, as in a.b = 1, is where it has a key.
func takeEntry(meta toml.MetaData, p toml.Primitive) (fileEntry, error) {
	var taken takenValue
	var at toml.ParseError
	if err := meta.PrimitiveDecode(p, &taken); !errors.As(err, &at) || at.Message != errTaken.Error() {
		return fileEntry{}, err
	}
	e := fileEntry{line: at.Position.Line, value: taken.value}
	var within map[string]toml.Primitive
	if e.line > 0 || meta.PrimitiveDecode(p, &within) != nil {
		return e, nil
	}
	for _, p := range within {
		inner, err := takeEntry(meta, p)
		return fileEntry{line: inner.line, value: e.value}, err
	}
	return e, nil
}

// takenValue takes any value of a file. It always fails, since the decoder tells of a line in errors only.
type takenValue struct{ value any }

var errTaken = errors.New("taken by lockstep")

// UnmarshalTOML is toml.Unmarshaler's.
func (t *takenValue) UnmarshalTOML(value any) error {
	t.value = value
	return errTaken
}

func settingOfKey(key string) (setting, error) {
	var known []string
	for _, s := range settings() {
		if s.name == key && !s.fileless {
			return s, nil
		}
		if !s.fileless {
			known = append(known, s.name)
		}
	}
	return setting{}, fmt.Errorf("there is no setting %s%s; `lockstep config --template` has all", key, hint(key, known))
}

// fileTexts returns a value of a file as texts, strictly of the type that the setting has.
func fileTexts(v value, in any) ([]string, error) {
	wrong := fmt.Errorf("it has to be %s", v.inFile())
	switch v := v.(type) {
	case truth:
		if b, ok := in.(bool); ok {
			return []string{fmt.Sprint(b)}, nil
		}
		return nil, wrong
	case list:
		many, ok := in.([]any)
		texts := make([]string, len(many))
		for i := range many {
			text, isText := many[i].(string)
			texts[i], ok = text, ok && isText
		}
		if !ok {
			return nil, wrong
		}
		return texts, nil
	case path:
		if text, ok := in.(string); ok {
			return []string{text}, v.checkInFile(text)
		}
		return nil, wrong
	}
	if text, ok := in.(string); ok {
		return []string{text}, nil
	}
	return nil, wrong
}
