"""Hidden module that adds the effect *Scribble Segment* to the Segment Editor."""

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule


class SegmentEditorScribbleSegment(ScriptedLoadableModule):
    """Registers the effect when Slicer has started."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SegmentEditorScribbleSegment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["SegmentEditor", "Segmentations", "ScribbleSegment"]
        self.parent.contributors = ["ScribbleSegment developers"]
        self.parent.helpText = _("Adds the effect Scribble Segment to the Segment Editor.")
        self.parent.hidden = True
        slicer.app.connect("startupCompleted()", self.registerEffect)

    def registerEffect(self):
        """Make the effect known to every Segment Editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        # Slicer looks the class up in the package, which must have been imported for its relative imports to work.
        from SegmentEditorScribbleSegmentLib import SegmentEditorScribbleSegmentEffect as effectClass

        scriptedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        scriptedEffect.setPythonSource(effectClass.sourceFile)
        scriptedEffect.self().register()
