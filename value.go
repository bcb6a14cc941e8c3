package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is the place that a setting is kept in; each of its kinds understands what people write for it.
type value interface {
	// set takes a value; more than one text only where it is a list.
	set(texts ...string) error
	// now is the present value, as JSON and TOML have it: string, bool or []string.
	now() any
	// inFile says what the configuration file has to have for it: "a string".
	inFile() string
}

// text is a string that passes the check; an empty one is no value, and always does.
type text struct {
	at    *string
	check func(string) error
}

func (v text) set(texts ...string) error {
	if texts[0] != "" {
		if err := v.check(texts[0]); err != nil {
			return err
		}
	}
	*v.at = texts[0]
	return nil
}

func (v text) now() any     { return *v.at }
func (text) inFile() string { return "a string" }

// path is the path of a file or directory. In the configuration file it is absolute: a relative one would be another
// place for each command that is started elsewhere.
type path struct{ at *string }

func (v path) set(texts ...string) error {
	*v.at = texts[0]
	return nil
}

func (v path) now() any     { return *v.at }
func (path) inFile() string { return "a string, an absolute path" }

func (path) checkInFile(text string) error {
	if text != "" && !filepath.IsAbs(text) {
		return fmt.Errorf("%q is not absolute: commands are started in other directories, and would look elsewhere", text)
	}
	return nil
}

// truth is yes or no.
type truth struct{ at *bool }

func (v truth) set(texts ...string) error {
	b, err := strconv.ParseBool(texts[0])
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", texts[0])
	}
	*v.at = b
	return nil
}

func (v truth) now() any     { return *v.at }
func (truth) inFile() string { return "true or false" }

// duration is a time longer than nothing.
type duration struct{ at *time.Duration }

func (v duration) set(texts ...string) error {
	d, err := time.ParseDuration(texts[0])
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is no duration; write 30s or 2m30s, more than 0", texts[0])
	}
	*v.at = d
	return nil
}

func (v duration) now() any     { return v.at.String() }
func (duration) inFile() string { return `a string, as "30s"` }

// oneOf is the check of a text that is one of a few words.
func oneOf(words ...string) func(string) error {
	return func(text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("%q is not one of %s", text, strings.Join(words, ", "))
		}
		return nil
	}
}

// list is any number of strings that each pass the check. The word none stands for the empty one, where an empty text
// would mean that nothing is set.
type list struct {
	at    *[]string
	check func(string) error
}

const noneOfList = "none"

func (v list) set(texts ...string) error {
	if slices.Equal(texts, []string{noneOfList}) {
		texts = nil
	}
	for _, t := range texts {
		if t == noneOfList {
			return errors.New("none stands alone")
		}
		if err := v.check(t); err != nil {
			return err
		}
	}
	*v.at = append([]string{}, texts...)
	return nil
}

func (v list) now() any     { return *v.at }
func (list) inFile() string { return `an array of strings, as ["…", "…"]` }
