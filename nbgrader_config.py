"""nbgrader's configuration for this course: `solutions/` is the source, `exercises/` what students get."""

from seqcourse.grading.configuration import configure

c = get_config()  # noqa: F821  (nbgrader provides it)

c.CourseDirectory.course_id = "seqcourse"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"

# "### BEGIN SOLUTION" would be a heading in a Markdown cell; without the hashes it works in code
# (after "###") and in Markdown (inside an HTML comment).
c.ClearSolutions.begin_solution_delimeter = "BEGIN SOLUTION"
c.ClearSolutions.end_solution_delimeter = "END SOLUTION"

# Rebuild every hand-in from the release, execute it in a sandbox, keep hidden tests out of the feedback.
configure(c)
